"""Small trainings of both panels on photographs: from equal weights, on equal batches, with the systems' own trainers.

``python -m parity_tests.learning`` runs them and saves what happened in ``curves/<name>.json``; with names, these only.
"""
