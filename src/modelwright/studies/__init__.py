"""Published claims, each as a small experiment with a verdict: one file per paper."""
