"""The fleet: all replicas and the gateway of a release; on this machine under one supervisor process."""
