"""SMS Partner, the source: one GET (`client`), the response read into tables (`response`), a stand-in (`sandbox`)."""
