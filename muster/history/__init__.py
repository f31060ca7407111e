"""What happened in a run, told from its journals: view, report, status and story."""
