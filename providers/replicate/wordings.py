r"""Families of the words in which models report that they refuse, or that a failure is temporary.

Replicate hands on what a model printed or raised, and each model has words of its own. So one table lists
families of words and not sentences. A text is read as lower-case words, sentence by sentence: `IMAGE_SAFETY`,
`ImageSafety` and "image safety" are alike. A text that no family covers is a failure of the model, and final.

The families come from Replicate's list of error codes (replicate.com/docs/reference/error-codes), from the errors of
its open models (github.com/replicate), from the finish reasons of Google's image models and the error codes of
OpenAI's, ByteDance's and Black Forest Labs', and from reports of their users.

Each line is a pattern. `{thing}` stands for any of the words listed under that name, an ellipsis for up to
eight words of the same sentence, and `(a|b)` for a or b, without a group. All other syntax is that of `re`.
"""

import re
from functools import cache, lru_cache
from typing import Final

from providers import Cause

MOST_READ: Final = 4_000
"""Characters of a text that are read: half of them from its start, half from its end."""

_WORDS: Final = {
    "thing": r"""
        (prompt|request|input|output|content|image|picture|photo|video|audio|clip|text|media|result|generation)s?
        (response|query|description|submission|upload|material|word|term|concept|character)s?
    """,
    "judge": r"""
        safety|moderat(ion|ors?)|polic(y|ies)|guidelines?|guardrails?|responsible ai|rai|risk control|nsfw|copyright\w*
        content (filter\w*|rules?|restrictions?|standards?|review|security|checks?|classifiers?|detection)
        terms of (service|use)|acceptable use|code of conduct|community (standards|rules)
        (abuse|misuse) (detect\w+|monitoring|prevention|filter\w*)
    """,
    "verdict": r"""
        block(ed|s|ing)|flag(ged|s)|reject\w*|refus(ed|es|al)|den(ied|ies)|declin(ed|es)|disallow\w*|prohibit\w*|forbid\w*
        filtered|stopped|caught|trigger(ed|s)|activated|trip(ped|s)|removed|withheld|suppressed|restricted|banned|cancell?ed|exceed(ed|s)
        violat\w+|breach\w*|contraven\w+|infring\w+|against|due to|because of
        (not|didnt|doesnt|isnt|fail(ed|s|ure) to) (allow\w*|permit\w*|comply|compliant|meet|met|respect|pass(ed)?)
    """,
    "checked": "safety|moderation|nsfw|content|policy",
    "check": r"(\w+ )?(checks?|review|screening|inspection|moderation|validation|test)",
    "matter": r"""
        nud(e|es|ity)|naked|porn\w*|erotic\w*|sexual\w*|racy|obscen\w+|profan\w+|gore|gory|violence|violent|csam
        hate speech|self harm|suicid\w+|harassment|terroris\w+|extremis\w+|child (abuse|exploitation|safety)
        minors|underage|a minor(?! (error|issue|version|change|problem|update))
        graphic (content|imagery)|deep ?fakes?|celebrit\w+|public figures?|likeness\w*
        real (persons?|people|individuals?)|photo ?realistic (persons?|people|faces?)
        copyrighted|trademark\w*|intellectual property|third party (content|rights?|material|likeness)
    """,
    "improper": "sensitive|inappropriate|unsafe|harmful|offensive|objectionable|hateful|unsuitable|high risk|nsfw",
    "banned": "illegal|explicit|adult|restricted|forbidden|prohibited|disallowed|dangerous|banned|blocked|toxic",
    "matters": "(content|material|word|term|keyword|imagery|image|media|subject|topic|theme|concept|language)s?",
    "part": r"""
        (content )?(checker|classifier|detector|filter|model|module|pipeline|head|service|api|server|endpoint|library)s?
        (check|detection|threshold|tolerance|level|weight|flag|option|score|probability|label|value|mode|setting)s?
        (package|config|list|file|path|key)s?|param\w*
    """,
    "failed_to": r"""
        (fail(ed|s|ing|ure)?|unable|errors?|exception|cannot|can not|cant|could not|couldnt)( (to|in|while|when|be))*
    """,
    "alone": r"""
        (?=$| (and|please|try|retry|re try|you|your|we|contact|e\d+|code \d{4,})\b| … {judged}\b)
        (?= by (\w+ ){0,3}(providers?|model|ai|google|openai|filters?)\b)
    """,
    "judged": r"""
        (privacy|legal|ethic\w*|politic\w*|weapons?|drugs?|persons?|people|child(ren)?|brands?|logos?|abus\w+|risk\w*)
        (depict|portray|resembl|mention|impersonat|hate)\w*|unsafe|harmful|inappropriate|offensive|illegal
    """,
    "must_be": "(must|should|has to|needs to) be",
    "cannot": "cant|cannot|can not|unable to|not able to|wont",
    "subject": "face|person|people|human|bod(y|ies)|hand|subject|object|speech|voice|sound|text",
    "field": r"""
        (prompt|input|image|picture|photo|video|audio|clip|mask|face|frame|file|url|link|text|word|description|reference)s?
        (seed|size|resolution|dimension|format|duration|length|value|field|argument|setting|option|step)s?|param\w*
        width|height|aspect ratio|num|number|content|json
    """,
    "wrong": r"""
        invalid|unsupported|corrupt\w*|malformed|wrong|bad|missing|empty|unrecogni[sz]ed|incorrect|unreadable|broken
        too (long|large|big|small|short|many|few)|exceed\w*|not (supported|valid|recogni[sz]ed|found)
    """,
    "other": "another|different|other|new|fewer|less|more|lower|higher|smaller|shorter|larger|simpler|valid",
    "again": "again|later|shortly|soon|once more",
}
"""Words that several families share."""

_FAMILIES: Final = {
    "refusal": r"""
        # Codes, and texts that are no more than a name.
        e005|image (safety|prohibited)|recitation|blocklist|spii|derivative works
        (finish|finished|block|blocked|stop|stopped) reason … (safety|content filter|prohibited)
        block(ed)? reason (other|unspecified|jailbreak)
        ^(\w+ ){0,2}(safety|moderation|content filter)( (error|exception|violation|block|refusal))?$
        # A verdict.
        {verdict} … {judge}
        {judge} … {verdict}
        {thing} … (?<!not be )(moderated|flagged)
        (task|job|prediction|status|error) ((is|was|got|has been) )?moderated
        flagged (as|by|for) … ({improper}|{matter})
        {checked} {check} ((has|have|was|were) )?failed(?! to)
        (moderation|audit|review|risk|data inspection) (failed|not passed)(?! to)|{thing} risk detected
        (failed|not pass) ((the|our|your) )?(content )?moderation{alone}
        (fail(ed|s|ure)?|not pass) … {checked} {check}
        # A rule.
        responsible ai|guardrails|acceptable use
        (content|usage|community|safety) (management )?(polic(y|ies)|guidelines?|standards)
        (safety|policy|guideline|content|moderation) (violations?|reasons|concerns|block)
        (violat(es?|ed|ing|ion)|breach(es)?|against|breaks) … (rules|terms|rights|laws?|regulations)
        # The matter.
        sensitive|nsfw(?! {part})|{matter}
        (person|people|individual|someone|anyone|subject|human|character|child)s? … under (the age of )?(18|eighteen)
        {improper} ({thing}|{matters})|{banned} {matters}
        {thing} … (is|was|were|are|as|be|considered|deemed|found|judged|potentially|too|not) {improper}
        (it|this|that) (is|was|(may|might|could) be) {improper}|not safe for work
        # What a model says of itself.
        (i|we|im|sorry) … ({cannot}|must) (help|fulfill?|decline)
        {cannot} (assist|comply)(?=$| with (this|that|these|such|the|your) (request|prompt|instruction)s?\b)
        as an ai … im?|i (wont|will not) (do|make|create|generate|draw|produce|edit|depict|render)
        we (wont|will not) (do|make|create|generate|draw|produce|edit|depict|render) (that|this|such)
        i ({cannot}|am unable to) assist with
        (refus|declin)(e|es|ed|ing) to (answer|respond|generate|draw|depict|comply|help|assist)
        (refus|declin)(e|es|ed|ing) to (make|create|produce|edit|render) … {thing}
    """,
    # A refusal that ends its sentence or is followed by a judgement (`alone`): "image rejected as it is not
    # RGB" is not one. It counts only if the whole text names no technical cause.
    "bare refusal": r"""
        {thing} ((was|were|is|has been|have been|got) )?(\w+ly )?(rejected|refused|declined|denied){alone}
        {thing} ((was|were|is|has been|have been|got) )?(\w+ly )?(blocked|filtered|banned){alone}
        (rejected|refused|declined|blocked) (your|this|the) {thing}{alone}
        (prompt|content|request) ((is|was) )?(not|isnt|wasnt) (allowed|permitted){alone}
    """,
    # Something broke, or a parameter is wrong. Such a sentence is no refusal, even if it names a checker.
    "technical": r"""
        {failed_to} (load|import|download|fetch|connect|initiali[sz]|reach|open|read|pars|start)(ing|ed|e|es|s)?
        {failed_to} (find|locat|instantiat|deseriali[sz]|resolv|decod|contact|mount|allocat|compil)(ing|ed|e|es|s)?
        {failed_to} (run|call)(ning|ing|ed|s)?
        (connection|socket|ssl|tls|dns|network|http) (\w+ )?(reset|refused|closed|error|aborted|lost|failed)
        connection (to|from|with|by) … (reset|refused|closed|aborted|lost|failed)
        (refus|reject)\w+ … connect(ion|ions)?|timed out|time ?out|unreachable|unavailable|crashed|quota
        (key|attribute|import|type|name|index|os|module not found) error|has no attribute|no module|no such
        not (installed|defined|found)|missing|mismatch
        (unexpected|unknown|unrecogni[sz]ed|unsupported) (\w+ )?(argument|kwarg|param\w*|option|field|key|type|format)s?
        keyword argument|kwargs?|invalid (value|type|choice|argument|url|json|format)
        not an? (valid|number|int\w*|float|str\w*|bool\w*|list|dict\w*|array|callable)
        {must_be} (an?|in|of|one|between|at|either|equal|within|less|greater|smaller|larger|divisible|positive|\d+)
        {must_be} (under|over|below|above|no)
        between \d+|expected (\d+|an?|type)|out of (memory|range|bounds|space)
        too (long|large|big|small|short)|exceeds? … (lengths?|limits?|sizes?|maximum|tokens?|characters?|memory)
        corrupt|corrupted|malformed|dtype|tensors?|cuda|weights|checkpoint|gradients?|(over|under)flow\w*
        aspect ratio|(alpha|colou?r) (channel|profile|space|mode)s?|rgba?|truncated|(white|allow)listed|stack ?trace
        (illegal|forbidden) (memory|instruction|argument|character|header)s?
        api (key|token)s?|unauthori[sz]ed|authentication|credentials?|permission (error|denied)
        access (to (\w+ ){1,4})?denied
        cors|cloudflare|waf|firewall|robots
    """,
    # Phrases that only sound like a rule or a refusal, such as names of parameters. They are ignored.
    "no rule": r"""
        (cors|iam|bucket|network|retry|cache|security|referrer|eviction|scaling|access|origin|lifecycle) polic(y|ies)
        (retention|scheduling|restart|password|organization) polic(y|ies)
        (safety|moderation|content|policy) (filter level|tolerance|param\w*|option|argument|type|length|encoding)
        (?<!not )(?<!nt )(disable|enable|allow|skip|use|run|filter) (safety|nsfw|moderation)( (check|filter)\w*)?
        (case|type|time|context|order|space|locale|latency|position|accent|whitespace|cost|language) sensitive
        sensitive (to|parameters?|variables?|fields?|settings?|keys?|env|environment)
    """,
    "passing": r"""
        # Replicate's codes and sentences.
        code pa|e003|e004|e1000|e6716|e8765|e9243|e9828
        unexpected error … (handling|processing|running|starting) … predictions?
        director … unexpected (error|failure)(?! e1001)
        predictions? … interrupted|preempted|(prediction|job|task|worker|node|pod|machine|instance)s? … evicted
        upstream connect error|(disconnect|reset) before headers|no healthy upstream|upstream request time ?out
        # Load.
        resource (has been )?exhausted(?! … (oom|memory|allocat\w*))
        (high|heavy|peak|increased) (demand|load|traffic|volume|usage)
        temporar(y|ily) … (unavailable|unable|overloaded|errors?|failures?|issues?|outage|problems?|down|busy|offline)
        (service|server|model|api|provider|upstream|backend|endpoint|worker|system)s? … (unavailable|busy)
        currently … (unavailable|busy)|overloaded(?! (function|method|operator))
        (at|over|out of|no|insufficient|full|lack of) capacity|capacity … (reached|exceeded)
        queue … (full|saturated|limit)|too many (\w+ )?(requests|jobs|predictions|tasks)
        rate ?limit(ed|ing|s)?(?! (must|should|is|param\w*|option|value|setting))
        throttled|bad gateway|gateway time ?out
    """,
    # An invitation to try again. The failure is temporary, unless the text speaks of the input.
    "invitation": r"""
        (try|trying|retry|retrying|attempt|resubmit|rerun|submit|send|run) … {again}
        (come|check) back {again}
        (please|then|and|or|just|safe to|(may|can|could|should)) (retry|re try|rerun|resubmit)(?! (number|count|limit))
        retry ({again}|the|this|your|it|with backoff)|(try|retry) (after|in) (an?|the|few|some|several|\d+)
        (busy|full|overloaded|interrupted|unavailable) retry|(can|may|should|could) be retried|if retried
    """,
    # It is not temporary either if the text speaks of the account, or of trying in vain.
    "of the input": r"""
        inputs?(?! output)|prompts?|(uploaded|provided|given|reference|source) {field}
        (process|read|decod|load|open|download|fetch|pars|analy[sz])\w* (your|the|this|an?) {field}
        (with|using|use|upload|provide|choose|select|enter|specify|pass|add|try) ((?!same )\w+ ){0,4}{field}
        (with|using|use|upload|provide|choose|select|try) ((an?|some) )?{other}
        (again|retry) with an?(?! (delay|backoff))
        (chang|modif|adjust|revis|rephras|reword|edit|shorten|reduc|simplif|fix|correct|check)\w* (\w+ ){0,4}{field}
        (verif|resiz|crop|compress|remov|lower|decreas|increas|ensur|review|replac)\w* (\w+ ){0,4}{field}
        (fix|correct|change|adjust|modify|revise|rephrase|edit|shorten|resize|check) (it|them|this|that)
        {wrong} (\w+ ){0,2}{field}
        {field} (\w+ ){0,4}{wrong}
        no (\w+ )?({subject}|image)s? … (found|detected|provided)
        ({failed_to}|not|didnt) (detect|find|recogni[sz]e|identify|locate|see)(ing)? (\w+ ){0,2}{subject}s?
        {subject}s? (detection failed|(was |were )?not (found|detected))
        (not|isnt|arent|wasnt) (an? )?(valid|number|int|integer|float|string|boolean|list)
        (not|isnt|arent|wasnt) an? (\w+ ){0,2}{field}
        {field} (\w+ )?(has|have|contains?) (no|only|too|more|fewer|an?)|{field} (lacks?|needs?|requires?)
        {field} ({failed_to}) be (read|opened|decoded|parsed|loaded|downloaded|fetched|accessed|identified|processed)
        (read|decod|pars)(e|ing)? (\w+ )?{field}|base64|codecs?|lo ?ras?
        (un|not )supported|deprecated|discontinued|no longer (available|supported|exists?)|(does not|doesnt) exist
        must be|input validation|validation error|out of memory … {field}
        credits?|billing|payment|insufficient (balance|funds)|api (key|token)
        subscription|trial|free tier|(your|current) plan
        accounts? … (suspended|disabled|deactivated|closed|locked|banned|blocked)|spend\w* limits?
        (monthly|weekly|daily|account|usage) (\w+ )?(limit|quota|allowance)s?
        (do not|dont|never|not|wont|cannot|no need to|without) (be )?(try|retry|retried|trying|retrying)
    """,
}
"""The meaning of a text, by families of words."""


def cause_in(text: str) -> Cause:
    """The kind of failure of a prediction, by the words of its error. A refusal stays one even if it invites
    to try again."""
    if len(text) > MOST_READ:
        text = f"{text[: MOST_READ // 2]}\n{text[-MOST_READ // 2 :]}"
    return _cause_in(text)


@lru_cache(256)  # a page of predictions repeats its failures at every poll
def _cause_in(text: str) -> Cause:
    sentences = [_says("no rule").sub(" ", each) for each in _sentences(text)]
    sound = [
        each for each in sentences if not (_says("technical").search(each) or _says("passing").search(each))
    ]
    if any(map(_says("refusal").search, sound)):
        return "content"
    if len(sound) == len(sentences) and any(map(_says("bare refusal").search, sound)):
        return "content"
    words = " . ".join(sentences)
    if _says("passing").search(words):
        return "passing"
    invites = _says("invitation").search(words) and not _says("of the input").search(words)
    return "passing" if invites else "model"


def _sentences(text: str) -> list[str]:
    """The words of each sentence, in lower case and without punctuation."""
    apart = _JOINT.sub(" ", re.sub("['\u2019`]", "", text)).lower()
    return [" ".join(re.findall(r"[^\W_]+", each)) for each in re.split(r"[.!?;](?=\W|$)|[\r\n]|\\n", apart)]


_JOINT: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Between the words of a name such as `ImageSafety` or `NSFWError`."""


def _pattern(families: str) -> re.Pattern[str]:
    joined = _any(families)
    for name, words in _WORDS.items():
        joined = joined.replace(f"{{{name}}}", _any(words))
    joined = joined.replace(" … ", r" (\w+ ){0,8}")
    return re.compile(rf"\b{joined}\b".replace("(", "(?:").replace("(?:?", "(?"))


def _any(lines: str) -> str:
    patterns = [line.strip() for line in lines.splitlines()]
    return f"({'|'.join(each for each in patterns if each and not each.startswith('#'))})"


@cache
def _says(family: str) -> re.Pattern[str]:
    """The pattern of a family of words. It is compiled when it is first needed, since all of them take 50 ms."""
    return _pattern(_FAMILIES[family])
