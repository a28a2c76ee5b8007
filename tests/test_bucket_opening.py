from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from buckets import opened
from stenopool.bucket import FolderBucket, open_bucket
from stenopool.errors import UsageError


@pytest.mark.parametrize(
    ("url", "canonical", "prefix"),
    [
        ("s3://recordings", "s3://recordings", ""),
        ("S3://recordings/", "s3://recordings", ""),
        ("s3://recordings/a/b/", "s3://recordings/a/b", "a/b"),
        ("s3://recordings/a b%20é?c#d", "s3://recordings/a b%20é?c#d", "a b%20é?c#d"),
        ("gs://recordings/a", "gs://recordings/a", "a"),
        ("az://recordings/a", "az://recordings/a", "a"),
        ("abfs://recordings/a", "az://recordings/a", "a"),
        (
            "abfs://recordings@account.dfs.core.windows.net/a",
            "abfs://recordings@account.dfs.core.windows.net/a",
            "a",
        ),
    ],
)
def test_url_names_a_bucket_and_a_prefix(
    url: str, canonical: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    bucket = opened(url)
    assert (bucket.url, bucket.prefix) == (canonical, prefix)
    assert opened(bucket.url) == bucket


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://key:secret@bucket",
        "s3://bucket?versioning",
        "s3://bucket//a",
        "s3://bucket/a//b",
        "s3://bucket/../a",
        "s3://bucket/a\nb",
        "s3a://bucket",
        "memory:///",
        "http://example.com/bucket",
        "ftp://bucket",
        "az://container-of-no-account",
    ],
)
def test_anything_else_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError) as caught:
        open_bucket(url)
    assert caught.value.do


def test_paths_and_file_urls_are_folders(tmp_path: Path) -> None:
    assert open_bucket(str(tmp_path)) == open_bucket(tmp_path.as_uri()) == FolderBucket(tmp_path)


def test_obstore_is_loaded_only_for_object_stores(tmp_path: Path) -> None:
    script = "import sys; from stenopool.bucket import open_bucket; open_bucket(sys.argv[1]);"
    script += "sys.exit('obstore' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
    )
