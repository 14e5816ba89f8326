"""Small trainings of both panels on digits and photographs: equal weights, equal batches, the systems' own trainers.

``python -m parity_tests.learning`` runs them and saves what happened in ``curves/<name>.json``; with names, these only.
"""
