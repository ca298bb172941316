"""Inputs that are almost right, for everything that reads what strangers write.

bt bench fuzz                                  # 10 million messages
python -m benchmarks.fuzzing.guided --seconds 60   # led by coverage; needs atheris
"""
