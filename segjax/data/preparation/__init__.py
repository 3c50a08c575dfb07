"""Steps of `segjax.data.prepare`: options, the working folder, held-out images and the report."""
