"""The setting `PIN_TO_CORE=1` beside the default, before a simulator with and without TLS.

`python -m bench --pinned` and `python -m bench.against --pinned` add this section. With TLS, a certificate is made for
the run, and the services trust it by `SSL_CERT_FILE`.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figures import AGAIN, NEW, OLD, Figure, compared, load_figure
from bench.processes import Variant, services_before, simulated
from bench.report import Section
from bench.rounds import BOUNDLESS, LIFTED, WITHOUT_FILES, Turns, generating, round_of
from harness.certificates import certified
from settings import Settings

CALLERS = (10, 50)

_SETTING = "PIN_TO_CORE"

_VARIANTS = {NEW: Variant(settings={_SETTING: 1}), OLD: Variant(), AGAIN: Variant()}

_NOTE = f"""\
The same commit with `{_SETTING}=1` and without it take turns before the same simulator, which serves plain HTTP or TLS.
A second process without it takes turns, too: `unpinned / unpinned` is what noise alone explains."""


def pinned(turns: Turns | None = None) -> Section | None:
    """Both settings under the same load, or None if the service has no such setting. Takes four minutes."""
    if _SETTING not in Settings.model_fields:
        print(f"The service has no setting {_SETTING}.", flush=True)
        return None
    return compared(
        f"With {_SETTING}=1", _figures(turns or Turns()), names=("pinned", "unpinned"), note=_NOTE
    )


def _figures(turns: Turns) -> Iterator[Figure]:
    with TemporaryDirectory() as folder:
        certificate = Path(folder) / "certificate.pem"
        certified(certificate, "localhost")
        for keeps_files in (False, True):
            yield from _before(turns, None, keeps_files=keeps_files)
            yield from _before(turns, certificate, keeps_files=keeps_files)


def _before(turns: Turns, certificate: Path | None, *, keeps_files: bool) -> Iterator[Figure]:
    """CPU and throughput before a simulator, which serves TLS if there is a certificate."""
    settings = dict(LIFTED if keeps_files else WITHOUT_FILES)
    tls: tuple[str, ...] = ()
    if certificate is not None:
        settings["SSL_CERT_FILE"] = certificate
        tls = ("--host", "localhost", "--certificate", str(certificate))
    where = f"{'with' if keeps_files else 'without'} files, {'TLS' if certificate else 'plain HTTP'}"
    with (
        simulated("--seconds", "0", *BOUNDLESS, *tls) as simulator,
        services_before(simulator, _VARIANTS, **settings) as services,
    ):
        loads = {name: generating(service) for name, service in services.items()}
        for load in loads.values():
            round_of(load, callers=max(CALLERS))
        for callers in CALLERS:
            rounds = turns.loaded(loads, callers=callers)
            at = f"{where}, {callers} at once"
            yield load_figure(f"CPU a request {at}", "ms", rounds, lambda it: it.cpu)
            yield load_figure(
                f"requests a second {at}",
                "req/s",
                rounds,
                lambda it: it.load.requests_per_second,
                is_more_better=True,
            )
