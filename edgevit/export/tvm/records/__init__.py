"""Tuned schedules: the database below ``$EDGEVIT_HOME``, and the records that ship with edgevit."""
