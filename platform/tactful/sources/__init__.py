"""Sources: messages of Segment, RudderStack, GA4 and other programs, mapped to events and users."""
