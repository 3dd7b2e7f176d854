"""Tuned schedules are kept by workload and target, found again, and never used where they do not fit."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.errors import BadArtifact
from edgevit.export.tvm import targets
from edgevit.export.tvm.records.database import (
    SHIPPED,
    Database,
    Record,
    read,
    shipped_file,
    space_of,
    user_file,
    write,
)

KNOBS = {"rows": (4, 6, 8), "unroll": (0, 1)}
RECORD = Record("aa11", "fused_matmul", {"rows": 6, "unroll": 1}, space_of(KNOBS), 10.0, 12.0, 40, 3.5, True)


def test_what_is_put_is_found_by_the_next_database(tmp_path: Path) -> None:
    path = tmp_path / "below" / "x.json"
    Database(path).put(RECORD)
    assert Database(path).find("aa11", RECORD.space) == RECORD
    assert Database(path).own("aa11", RECORD.space) == RECORD
    assert Database(path).find("bb22", RECORD.space) is None


def test_a_record_made_for_other_knobs_is_not_used(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.json")
    database.put(RECORD)
    assert database.find("aa11", space_of({**KNOBS, "rows": (4, 8)})) is None
    assert space_of(KNOBS) == space_of(dict(reversed(KNOBS.items())))


def test_the_users_own_record_goes_before_the_shipped_one(tmp_path: Path) -> None:
    shipped = tmp_path / "x86_64-avx2.json.gz"
    write(shipped, [replace(RECORD, us=9.0), replace(RECORD, workload="cc33")])
    database = Database(tmp_path / "own.json", shipped)
    found = database.find("aa11", RECORD.space)
    assert found is not None
    assert found.us == 9.0
    assert database.ships(found)
    assert database.own("aa11", RECORD.space) is None
    database.put(RECORD)
    assert database.find("aa11", RECORD.space) == RECORD
    assert not database.ships(RECORD)
    assert [record.workload for record in read(tmp_path / "own.json")] == ["aa11"]


def test_the_users_file_is_of_one_cpu_and_number_of_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    one, two = (user_file(targets.host(cores)) for cores in (1, 2))
    assert one.parent == tmp_path / "tvm"
    assert one != two
    assert user_file(targets.choose(arch="aarch64", cores=1)).name == "aarch64-neon-cortex-a72-4.json"


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    records = [RECORD, replace(RECORD, workload="bb22")]
    for name, order in (("a.json.gz", records), ("b.json.gz", records[::-1])):
        write(tmp_path / name, order)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": 99, "records": []}', '{"format": 1, "records": [{"workload": "x"}]}']
)
def test_a_file_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadArtifact, match=r"x\.json holds no tuning records"):
        Database(tmp_path / "x.json")


def test_a_broken_shipped_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"format": 1, "records": []}).encode())[:-9])
    with pytest.raises(BadArtifact, match="holds no tuning records"):
        Database(tmp_path / "own.json", path)


def test_shipped_records_are_small_readable_and_faster_than_the_rules() -> None:
    files = sorted(SHIPPED.glob("*.json.gz"))
    assert shipped_file("x86_64-avx2") in files
    assert sum(path.stat().st_size for path in files) < 5 << 20
    for path in files:
        records = read(path)
        assert records
        assert len({record.workload for record in records}) == len(records)
        assert all(record.us > 0 and record.gains for record in records)
