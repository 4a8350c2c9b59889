"""Tables that figures and pages show, from the long table of a store. All numbers are made here."""
