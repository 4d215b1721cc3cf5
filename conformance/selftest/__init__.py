"""Tests the suite itself: injected faults must be caught, placed and named, and correct builds not accused."""
