"""A folder holds one kind of thing: every other kind is refused, in both directions."""

import pytest

from brainenc.benchmarking.curve_result import check_curve_folder
from brainenc.benchmarking.decoding_result import check_decoding_folder
from brainenc.benchmarking.group_result import check_group_folder
from brainenc.benchmarking.partition_result import check_partition_folder
from brainenc.benchmarking.result import check_run_folder
from brainenc.benchmarking.table_folders import CONTENTS

CHECKS = {
    "manifest.json": check_run_folder,
    "group.json": check_group_folder,
    "curve.json": check_curve_folder,
    "partition.json": check_partition_folder,
    "decoding.json": check_decoding_folder,
}


@pytest.mark.parametrize("own", CHECKS)
@pytest.mark.parametrize("held", [name for name in CONTENTS if name.endswith(".json")])
def test_only_folders_of_the_same_kind_are_taken(own, held, tmp_path):
    (tmp_path / held).write_text("{}")
    if own == held:
        assert CHECKS[own](tmp_path) == tmp_path
    else:
        with pytest.raises(FileExistsError, match=CONTENTS[held]):
            CHECKS[own](tmp_path)
    assert (tmp_path / held).read_text() == "{}"
