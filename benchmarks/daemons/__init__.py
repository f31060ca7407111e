"""What the daemons cost beside training: their own code paths, in this build and in commit 5c6907b, beside memcpy."""
