"""`make fuzz`: everything that resx reads, spoiled at random; docs/security.md says what must not come of it."""
