"""Frozen processes, a PostgreSQL that crashes, and connections to it that are silent, slow or half open, under load."""

import random
import time
from collections.abc import Iterator
from functools import partial

from bench.report import Claim, Section, claimed
from bench.scale.stage import Scale, Stage, audited, staged
from harness.postgres import Server
from harness.tcp_proxy import TcpProxy, tcp_proxies

SIZE = 3
FREEZES = 30
CRASHES = 20
BLACKHOLES = 10

_LONGEST_FREEZE = 90.0


def freezes(scale: Scale) -> Section:
    number = scale.number(FREEZES)
    note = f"""\
    {number} times a process is stopped (SIGSTOP) for 1 to {scale.seconds(_LONGEST_FREEZE, least=15):g} s
    and continued. Two of {SIZE} may be stopped at once, also the holder of the gate's role. A third of the
    freezes are shorter than the time after which a process counts as dead."""
    return claimed(f"{number} freezes", _freeze_claims(scale, number), note=note)


def crashes(scale: Scale) -> Section:
    number = scale.number(CRASHES)
    note = f"""\
    {number} times PostgreSQL is ended at once (SIGQUIT to its first process), and started again after 0 to
    10 s."""
    return claimed(f"{number} crashes of PostgreSQL", _crash_claims(number), note=note)


def blackholes(scale: Scale) -> Section:
    number = scale.number(BLACKHOLES, least=4)
    note = f"""\
    Each process reaches PostgreSQL through a proxy of its own. {number} times one of them passes nothing
    for 1 to {scale.seconds(60, least=15):g} s, or is late by up to 2 s, or loses the server's or the
    client's side."""
    return claimed(
        f"{number} faults of connections to PostgreSQL", _blackhole_claims(scale, number), note=note
    )


def _freeze_claims(scale: Scale, number: int) -> Iterator[Claim]:
    with staged(SIZE) as stage:
        longest = scale.seconds(_LONGEST_FREEZE, least=15)
        yield from audited(stage, f"{number} freezes", partial(_freezing, stage, number, longest))


def _freezing(stage: Stage, number: int, longest: float) -> None:
    chance = random.Random(2)
    frozen: dict[int, float] = {}  # the time of the end, by member
    members = stage.fleet.members
    while number or frozen:
        now = time.monotonic()
        for each in [each for each, until in frozen.items() if until <= now]:
            del frozen[each]
            members[each].thaw()
        if number and len(frozen) < SIZE - 1 and chance.random() < 0.1:
            victim = chance.choice([each for each in range(SIZE) if each not in frozen])
            short = chance.random() < 1 / 3
            frozen[victim] = now + (chance.uniform(1, 5) if short else chance.uniform(5, longest))
            members[victim].freeze()
            number -= 1
        time.sleep(0.5)


def _crash_claims(number: int) -> Iterator[Claim]:
    with staged(SIZE) as stage:
        yield from audited(stage, f"{number} crashes", partial(_crashing, stage.server, number))


def _crashing(server: Server, number: int) -> None:
    chance = random.Random(3)
    for _ in range(number):
        time.sleep(chance.uniform(3, 20))
        server.stop()
        time.sleep(chance.choice([0, chance.uniform(0, 10)]))
        server.start()
    time.sleep(5)


def _blackhole_claims(scale: Scale, number: int) -> Iterator[Claim]:
    server = Server(max_connections="200")
    try:
        with tcp_proxies(SIZE, server.directory / ".s.PGSQL.5432") as proxies:

            def through_proxy(member: int) -> str:
                return f"postgresql://postgres@127.0.0.1:{proxies[member].port}/postgres?sslmode=disable&gssencmode=disable"

            with staged(SIZE, server=server, database=through_proxy) as stage:
                longest = scale.seconds(60, least=15)
                yield from audited(stage, f"{number} faults", partial(_breaking, proxies, number, longest))
    finally:
        server.close()


def _breaking(proxies: list[TcpProxy], number: int, longest: float) -> None:
    chance = random.Random(4)
    for turn in range(number):
        time.sleep(chance.uniform(3, 10))
        proxy = chance.choice(proxies)
        match turn % 4:
            case 0 | 2:
                proxy.blackhole()
                time.sleep(chance.uniform(1, longest))
            case 1:
                proxy.lose_server()
            case _:
                proxy.delay(chance.uniform(0.1, 2))
                time.sleep(chance.uniform(1, longest))
                proxy.lose_client()
        proxy.restore()
    time.sleep(15)
