"""Who is preferred to whom, by whom, and how far those who say so agree; best-of-n and what it costs in KL."""
