"""The read-only web service: HTTP API, live streams and dashboard (extra ``web``)."""
