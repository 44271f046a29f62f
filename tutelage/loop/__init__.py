"""The loop: what people asked and ranked becomes the next model, if a gate of fixed sample size finds it better."""
