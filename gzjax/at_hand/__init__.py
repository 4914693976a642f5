"""Published Galaxy Zoo data, downloaded and made ready for training: `launch/data NAME`."""
