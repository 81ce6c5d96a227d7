"""The contract served: services, validation, errors, where they listen."""
