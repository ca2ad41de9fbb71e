"""The chapter that the published runs come from, and its exercises answered with measurements."""
