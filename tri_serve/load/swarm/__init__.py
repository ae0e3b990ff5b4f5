"""The Locust side: users, pacing, events, the web UI, merging over processes. The only importer of Locust."""
