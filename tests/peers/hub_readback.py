"""The other side of a dataset, by the official client: reads what tiltmeter appended, and commits in between.

    HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=... python hub_readback.py REPO FILE read
    HF_ENDPOINT=...                   HF_TOKEN=... python hub_readback.py REPO FILE append LINE
    HF_ENDPOINT=...                   HF_TOKEN=... python hub_readback.py REPO FILE replace PATH

Needs huggingface_hub. `read` prints the head and the file as hf_hub_download gives it; `append` adds a line under the condition that the
head has not moved; `replace` uploads a file from the disk, by LFS where the Hub asks for it. Each prints one JSON object. The cache is
a folder of its own, so that what is read came over the wire.
"""

import argparse
import base64
import json
import os
import tempfile

os.environ["HF_HUB_DISABLE_XET"] = "1"  # the fake Hub offers the basic transfer of LFS only
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp()

import huggingface_hub  # noqa: E402
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("file")
    parser.add_argument("do", choices=["read", "append", "replace"])
    parser.add_argument("what", nargs="?")
    asked = parser.parse_args()

    api = HfApi()
    info = api.repo_info(asked.repo, repo_type="dataset")
    with tempfile.TemporaryDirectory() as cache:
        path = hf_hub_download(asked.repo, asked.file, repo_type="dataset", revision=info.sha, cache_dir=cache)
        with open(path, "rb") as stream:
            content = stream.read()
    said = {
        "version": huggingface_hub.__version__,
        "head": info.sha,
        "files": sorted(sibling.rfilename for sibling in info.siblings),
        "content": base64.b64encode(content).decode(),
    }
    if asked.do == "append":
        change = CommitOperationAdd(asked.file, content + asked.what.encode() + b"\n")
        made = api.create_commit(
            asked.repo, [change], commit_message="by the official client", repo_type="dataset", parent_commit=info.sha
        )
        said["commit"] = made.oid
    if asked.do == "replace":
        made = api.upload_file(
            path_or_fileobj=asked.what, path_in_repo=asked.file, repo_id=asked.repo, repo_type="dataset"
        )
        said["commit"] = made.oid
    print(json.dumps(said))


if __name__ == "__main__":
    main()
