"""Measurements with their intervals: questions whose right answers are known, asked of a loaded model."""
