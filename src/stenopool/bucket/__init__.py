"""Named files under one root: a local folder, or a bucket of an object store.

open_bucket   what a URL names
base          what both are: `Bucket`, `Key`, `Stamp`
folder        plain file system calls; `exclusive` is its create-if-absent
objects       S3, Google Cloud Storage and Azure through obstore; `connecting` sets it up,
              `failures` gives its errors names, `listing` lists what it cannot
"""

from stenopool.bucket.base import Bucket, Key, Refused, Stamp
from stenopool.bucket.folder import LOCK_NAME, FolderBucket
from stenopool.bucket.opening import open_bucket

__all__ = ["LOCK_NAME", "Bucket", "FolderBucket", "Key", "Refused", "Stamp", "open_bucket"]
