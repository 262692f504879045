"""The domain: forget requests, verdicts, policy, bundle, screening, stamps, audit, errors."""
