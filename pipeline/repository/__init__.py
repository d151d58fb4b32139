"""The release repository: signed metadata (The Update Framework) and release files, in a folder or below an S3 prefix.

Two places: the repository, which anybody may read and any static server can serve, and the publisher's private folder
with the keys, the truth about the metadata, and what is staged. Nothing is ever read back from the repository: whoever
can write there can stop updates, and cannot make them say something else.

    REPOSITORY/metadata/1.root.json 2.root.json ... N.targets.json N.site-NAME.json N.snapshot.json timestamp.json
    REPOSITORY/targets/SITE/NAME/VERSION/SHA256.manifest.json
    REPOSITORY/targets/SITE/SHA256.revoked.json
    REPOSITORY/files/SHA256                                      what the signed manifests list, by digest
"""
