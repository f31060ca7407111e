"""What a participant holds, when, and where: told before anything is bought or started, by spec, role and machine."""
