"""What the gauntlet pays: honest peers and attackers, measured once on the study model, judged by any rule."""
