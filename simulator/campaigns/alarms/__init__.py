"""False alarms and missed alarms, by simulation."""
