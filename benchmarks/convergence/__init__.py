"""The convergence study: does training over the internet reach what training together reaches, and at what traffic?"""
