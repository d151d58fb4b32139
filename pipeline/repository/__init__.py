"""The release repository: signed TUF metadata and release files, in a folder or an S3 prefix.

It has two locations: the repository (The Update Framework), which anybody may read and any static server can serve, and
the publisher's private folder with the keys, the authoritative metadata and the staged releases. Nothing is read back
from the repository: an attacker with write access there can stop updates, but cannot change them.

    REPOSITORY/metadata/1.root.json 2.root.json ... N.targets.json N.site-NAME.json N.snapshot.json timestamp.json
    REPOSITORY/targets/SITE/NAME/VERSION/SHA256.manifest.json
    REPOSITORY/targets/SITE/SHA256.revoked.json
    REPOSITORY/files/SHA256                                      the files of the signed manifests, by digest
"""
