"""Files that go along with a job: what a submission says of them, and their safe unpacking."""
