CREATE TABLE api_keys (
	id TEXT NOT NULL,
	name TEXT NOT NULL,
	role TEXT NOT NULL,
	digest TEXT NOT NULL,
	prefix TEXT NOT NULL,
	previous_digest TEXT,
	previous_until FLOAT,
	max_concurrent INTEGER,
	requests_per_minute INTEGER,
	max_queued INTEGER,
	budget_usd FLOAT,
	budget_period TEXT,
	models TEXT NOT NULL,
	tags TEXT NOT NULL,
	created_at FLOAT NOT NULL,
	expires_at FLOAT,
	deleted_at FLOAT,
	revision INTEGER NOT NULL,
	safety TEXT,
	PRIMARY KEY (id)
);
CREATE TABLE attempts (
	generation_id TEXT NOT NULL,
	number INTEGER NOT NULL,
	model TEXT NOT NULL,
	prediction_id TEXT,
	error_code TEXT,
	error_detail TEXT,
	error_retryable BOOLEAN,
	error_problems TEXT,
	changes TEXT NOT NULL,
	cost_usd FLOAT NOT NULL,
	open BOOLEAN NOT NULL,
	submitted_at FLOAT,
	answered_at FLOAT,
	fingerprint TEXT NOT NULL,
	created_at FLOAT,
	passed_over BOOLEAN NOT NULL,
	clock_skew FLOAT,
	seed TEXT,
	prompt_tokens INTEGER,
	cached_tokens INTEGER,
	completion_tokens INTEGER,
	thinking_tokens INTEGER,
	model_version TEXT,
	finish_reason TEXT,
	PRIMARY KEY (generation_id, number)
);
CREATE TABLE audit (
	at FLOAT NOT NULL,
	id TEXT NOT NULL,
	actor TEXT NOT NULL,
	actor_name TEXT NOT NULL,
	action TEXT NOT NULL,
	target TEXT NOT NULL,
	details TEXT NOT NULL,
	request_id TEXT NOT NULL,
	PRIMARY KEY (at, id)
);
CREATE TABLE batches (
	id TEXT NOT NULL,
	caller_id TEXT NOT NULL,
	total INTEGER NOT NULL,
	request TEXT NOT NULL,
	max_concurrent INTEGER,
	max_cost_usd FLOAT,
	webhook TEXT,
	plan_strategy TEXT NOT NULL,
	plan_seconds FLOAT NOT NULL,
	plan_cost_usd FLOAT NOT NULL,
	plan_credits INTEGER NOT NULL,
	address TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	accepted_at FLOAT NOT NULL,
	ended_at FLOAT,
	process TEXT,
	taken_at FLOAT,
	metadata TEXT,
	door TEXT,
	body_fingerprint TEXT,
	joined TEXT,
	PRIMARY KEY (id)
);
CREATE TABLE deliveries (
	id TEXT NOT NULL,
	url TEXT NOT NULL,
	since FLOAT NOT NULL,
	state TEXT NOT NULL,
	attempts INTEGER NOT NULL,
	next_at FLOAT,
	trouble TEXT,
	delivered_at FLOAT,
	process TEXT,
	taken_at FLOAT,
	PRIMARY KEY (id)
);
CREATE TABLE generations (
	seq BIGSERIAL NOT NULL,
	id TEXT NOT NULL,
	caller_id TEXT NOT NULL,
	batch_id TEXT,
	position INTEGER,
	state TEXT NOT NULL,
	model TEXT NOT NULL,
	requested_model TEXT NOT NULL,
	prompt TEXT NOT NULL,
	file_name TEXT,
	lists_attempts BOOLEAN NOT NULL,
	request TEXT,
	request_id TEXT NOT NULL,
	webhook TEXT,
	address TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	accepted_at FLOAT NOT NULL,
	ended_at FLOAT,
	cancelled BOOLEAN NOT NULL,
	suspended_at FLOAT,
	queued_seconds FLOAT NOT NULL,
	predicting_seconds FLOAT NOT NULL,
	total_seconds FLOAT NOT NULL,
	outputs TEXT NOT NULL,
	files TEXT NOT NULL,
	files_error TEXT,
	placeholder BOOLEAN NOT NULL,
	error_code TEXT,
	error_detail TEXT,
	error_retryable BOOLEAN,
	error_problems TEXT,
	cost_usd FLOAT NOT NULL,
	reserved_usd FLOAT NOT NULL,
	images INTEGER NOT NULL,
	video_seconds FLOAT NOT NULL,
	credits INTEGER NOT NULL,
	semaphore TEXT,
	process TEXT,
	taken_at FLOAT,
	version TEXT,
	kind TEXT,
	cost_basis TEXT,
	warnings TEXT DEFAULT '[]' NOT NULL,
	has_secrets BOOLEAN DEFAULT false NOT NULL,
	metadata TEXT,
	door TEXT,
	body_fingerprint TEXT,
	door_facts TEXT,
	text TEXT,
	calls INTEGER DEFAULT 0 NOT NULL,
	prompt_tokens INTEGER DEFAULT 0 NOT NULL,
	completion_tokens INTEGER DEFAULT 0 NOT NULL,
	thinking_tokens INTEGER DEFAULT 0 NOT NULL,
	resets_at TEXT,
	verdict TEXT,
	PRIMARY KEY (seq)
);
CREATE TABLE idempotency_keys (
	caller_id TEXT NOT NULL,
	key TEXT NOT NULL,
	fingerprint TEXT NOT NULL,
	work_id TEXT NOT NULL,
	created_at FLOAT NOT NULL,
	process TEXT,
	PRIMARY KEY (caller_id, key)
);
CREATE TABLE lookups (
	reader TEXT NOT NULL,
	name TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	until FLOAT NOT NULL,
	is_over BOOLEAN NOT NULL,
	PRIMARY KEY (reader, name, simulated)
);
CREATE TABLE lost_calls (
	caller_id TEXT NOT NULL,
	body_fingerprint TEXT NOT NULL,
	work_id TEXT NOT NULL,
	accepted_at FLOAT NOT NULL,
	lost_at FLOAT NOT NULL,
	answered_try INTEGER,
	unsure BOOLEAN NOT NULL,
	PRIMARY KEY (caller_id, body_fingerprint, work_id)
);
CREATE TABLE meta (
	name TEXT NOT NULL,
	value BYTEA NOT NULL,
	PRIMARY KEY (name)
);
CREATE TABLE models (
	reader TEXT NOT NULL,
	name TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	version TEXT,
	is_official BOOLEAN,
	description TEXT NOT NULL,
	facts TEXT NOT NULL,
	missing BOOLEAN NOT NULL,
	looked_up_at FLOAT NOT NULL,
	PRIMARY KEY (reader, name, simulated)
);
CREATE TABLE runs (
	target TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	slot INTEGER NOT NULL,
	seconds FLOAT NOT NULL,
	PRIMARY KEY (target, simulated, slot)
);
CREATE TABLE schemas (
	version TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	model TEXT NOT NULL,
	document BYTEA NOT NULL,
	seen_at FLOAT NOT NULL,
	PRIMARY KEY (version, simulated)
);
CREATE TABLE semaphore_leases (
	id TEXT NOT NULL,
	semaphore TEXT NOT NULL,
	ttl FLOAT NOT NULL,
	expires_at FLOAT NOT NULL,
	key TEXT,
	PRIMARY KEY (id)
);
CREATE TABLE semaphores (
	id TEXT NOT NULL,
	"limit" INTEGER NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE spending (
	payer TEXT NOT NULL,
	period TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	process TEXT NOT NULL,
	spent FLOAT NOT NULL,
	reserved FLOAT NOT NULL,
	PRIMARY KEY (payer, period, simulated, process)
);
CREATE TABLE usage_by_day (
	day INTEGER NOT NULL,
	caller_id TEXT NOT NULL,
	model TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	generations INTEGER NOT NULL,
	succeeded INTEGER NOT NULL,
	failures INTEGER NOT NULL,
	canceled INTEGER NOT NULL,
	images INTEGER NOT NULL,
	video_seconds FLOAT NOT NULL,
	usd FLOAT NOT NULL,
	credits INTEGER NOT NULL,
	calls INTEGER DEFAULT 0 NOT NULL,
	prompt_tokens INTEGER DEFAULT 0 NOT NULL,
	completion_tokens INTEGER DEFAULT 0 NOT NULL,
	thinking_tokens INTEGER DEFAULT 0 NOT NULL,
	PRIMARY KEY (day, caller_id, model, simulated)
);
CREATE INDEX api_keys_by_revision ON api_keys (revision);
CREATE INDEX batches_by_end ON batches (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batches_unfinished ON batches (id) WHERE ended_at IS NULL;
CREATE INDEX deliveries_pending ON deliveries (state) WHERE state = 'pending';
CREATE INDEX generations_by_batch ON generations (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX generations_by_caller ON generations (caller_id);
CREATE INDEX generations_by_end ON generations (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX generations_by_id ON generations (id);
CREATE INDEX generations_unfinished ON generations (seq) WHERE ended_at IS NULL;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE TABLE budgets (
	process TEXT NOT NULL,
	day INTEGER NOT NULL,
	simulated BOOLEAN NOT NULL,
	spent FLOAT NOT NULL,
	reserved FLOAT NOT NULL,
	PRIMARY KEY (process, day)
);
CREATE TABLE leases (
	id TEXT NOT NULL,
	process TEXT,
	caller TEXT NOT NULL,
	batch TEXT,
	max_concurrent INTEGER,
	semaphore TEXT,
	state SMALLINT NOT NULL,
	reference TEXT,
	runs_for DOUBLE PRECISION,
	wanted_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
	sent_at TIMESTAMP WITH TIME ZONE,
	answered_at TIMESTAMP WITH TIME ZONE,
	left_at TIMESTAMP WITH TIME ZONE,
	granted BOOLEAN DEFAULT false NOT NULL,
	seen SMALLINT DEFAULT -1 NOT NULL,
	boots TEXT,
	started BOOLEAN DEFAULT false NOT NULL,
	account TEXT,
	model TEXT,
	tokens INTEGER,
	micro_usd BIGINT,
	ended_at TIMESTAMP WITH TIME ZONE,
	PRIMARY KEY (id)
)
 WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE letters (
	id TEXT NOT NULL,
	sender TEXT NOT NULL,
	recipient TEXT NOT NULL,
	kind TEXT NOT NULL,
	body TEXT NOT NULL,
	reply_to TEXT,
	created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE roles (
	name TEXT NOT NULL,
	holder TEXT,
	term BIGINT NOT NULL,
	until TIMESTAMP WITH TIME ZONE NOT NULL,
	answered_at TIMESTAMP WITH TIME ZONE,
	figures TEXT,
	figured_at TIMESTAMP WITH TIME ZONE,
	PRIMARY KEY (name)
);
CREATE TABLE timelines (
	id TEXT NOT NULL,
	settled_at TIMESTAMP WITH TIME ZONE NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX leases_of_process ON leases (process);
CREATE INDEX leases_unseen ON leases (id) WHERE seen <> state;
CREATE TABLE processes (
	id TEXT NOT NULL,
	until TIMESTAMP WITH TIME ZONE NOT NULL,
	beat_at TIMESTAMP WITH TIME ZONE NOT NULL,
	steady_since TIMESTAMP WITH TIME ZONE NOT NULL,
	since TIMESTAMP WITH TIME ZONE NOT NULL,
	dead_at TIMESTAMP WITH TIME ZONE,
	taken_at TIMESTAMP WITH TIME ZONE,
	schema INTEGER NOT NULL,
	epoch INTEGER NOT NULL,
	courier INTEGER DEFAULT '0' NOT NULL,
	version TEXT NOT NULL,
	upstream TEXT NOT NULL,
	simulated BOOLEAN NOT NULL,
	token TEXT,
	figures TEXT,
	PRIMARY KEY (id)
);
CREATE TABLE proven_tokens (
	caller_id TEXT NOT NULL,
	turn TEXT NOT NULL,
	until TIMESTAMP WITH TIME ZONE NOT NULL,
	PRIMARY KEY (caller_id)
);
CREATE TABLE shares (
	process TEXT NOT NULL,
	places INTEGER NOT NULL,
	wants INTEGER NOT NULL,
	PRIMARY KEY (process)
);
