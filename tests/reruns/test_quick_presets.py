"""Every experiment's quick preset runs and shows its phenomenon."""

import pytest

from nslab import corpora, records, reruns


@pytest.mark.parametrize("name", reruns.names())
def test_the_quick_preset_shows_its_phenomenon(name, tmp_path):
    experiment = reruns.load(name)
    try:
        record = records.perform(experiment, "quick", records=tmp_path)
    except corpora.NotFetched:
        pytest.skip("real inputs not fetched")
    except corpora.HubFailed:  # BLiMP comes from $NSLAB_BLIMP or the hub
        pytest.skip("shared data absent")
    assert experiment.phenomenon(record.result) is None
    assert not record.stale
