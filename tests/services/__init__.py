"""The real services that the tests run against: how to install, start, stop and break them."""
