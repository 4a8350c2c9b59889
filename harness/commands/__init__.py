"""The commands of `metagrad`, one file each."""
