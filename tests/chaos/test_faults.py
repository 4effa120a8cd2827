"""The faults of a seed are the same each time, of every kind, and a longer list begins with the shorter."""

from __future__ import annotations

from tests.chaos.faults import DAMAGES, SERVER_WEIGHTS, WEIGHTS, schedule, spoil


def test_a_seed_makes_the_same_faults_and_another_makes_others() -> None:
    assert schedule(1, 40) == schedule(1, 40)
    assert schedule(1, 500)[:40] == schedule(1, 40)
    assert schedule(2, 40) != schedule(1, 40)


def test_every_kind_comes_up_and_every_fault_has_somebody_at_work() -> None:
    faults = schedule(1, 500)
    assert {(fault.kind, fault.part) for fault in faults} == set(WEIGHTS)
    assert all(fault.work and 0 <= fault.draw < 1 and fault.seconds > 0 for fault in faults)
    assert len({str(fault) for fault in faults}) == 500


def test_a_database_server_is_started_again_too() -> None:
    faults = schedule(1, 500, server=True)
    assert {(fault.kind, fault.part) for fault in faults} == set(WEIGHTS) | set(SERVER_WEIGHTS)
    assert {fault.times for fault in faults} == {1, 2, 3, 4}
    assert faults[:40] == schedule(1, 40, server=True)


def test_a_spoilt_file_is_another() -> None:
    content = b'{"version": "abc", "history": []}'
    spoilt = {spoil(content, damage) for damage in DAMAGES}
    assert len(spoilt) == len(DAMAGES)
    assert content not in spoilt
