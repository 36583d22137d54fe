"""The console command `melody-jax`, for those who installed the program without its checkout."""
