# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own galaxies
#
# A table of votes and a folder of images become a network that predicts for other galaxies.
# `docs/how-to/own-survey.md` says which tables and images are read, `own-tree.md` beside it which
# trees there are.

# %%
from pathlib import Path

import gzjax
from gzjax.run import show

FOLDER, TABLE, IMAGES = Path("survey"), "votes.csv", "images"  # the last two within the first
TREE = "decals-dr5"  # a published tree, or the path of your own TOML file
NETWORK, WEIGHTS, SIZE, EPOCHS = "efficientnet-lite0", "imagenet", 128, 20
CROP = 0.8  # how much of an image's side is used; galaxies should fill most of it
NEW, WORK = "new_images", Path("mine")  # a folder of images that nobody voted on; where results go

# %% [markdown]
# The recipe of a survey: random views, the likelihood of the votes, so that predictions have
# intervals, averages of weights and of views.

# %%
config = gzjax.recipe("decals")
config.data.root, config.data.table, config.data.images = str(FOLDER), TABLE, IMAGES
config.data.tree = TREE
config.model.name, config.model.weights = NETWORK, WEIGHTS
config.data.crop, config.model.image_size = CROP, SIZE
config.data.canvas = round(1.25 * SIZE)  # larger than the view, which is resampled from it
config.epochs = EPOCHS

# %% [markdown]
# What would be trained, and what a step costs. Mistakes in the table end here, in one line.

# %%
show.show(config, WORK / "run", gzjax.Report())

# %% [markdown]
# Training; if it is interrupted, the same cell resumes. `mine/run/report.html` is the page to
# judge it by.

# %%
model = gzjax.train(config, WORK / "run", report=gzjax.Report())

# %% [markdown]
# Scores on galaxies that were held out, question by question.

# %%
result = gzjax.evaluate(model, gzjax.load_data(WORK / "run"), split="test")
for question, rmse in result["rmse_per_question"].items():
    baseline = result["baseline_rmse_per_question"][question]
    print(question, *("-" if value is None else f"{value:.4f}" for value in (rmse, baseline)))

# %% [markdown]
# Predictions with 90 % intervals. The row of an image that cannot be read says why, in the column
# `fault`.

# %%
predicted = model.predict(NEW)
predicted.head()

# %%
predicted.to_csv(WORK / "predicted.csv")
