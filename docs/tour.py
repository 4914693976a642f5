# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of gzjax
#
# A synthetic sky, a network trained for about a minute, its predictions, the decision tree, a
# tree and a loss of your own, embeddings, and a page to look through all of it. The galaxies are
# drawn and their crowd is simulated: scores show that the system works, and say nothing about
# real galaxies.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image

import gzjax
from gzjax import describe, tree
from gzjax.run import embed, explore

GALAXIES, EPOCHS, SHOWN = 1024, 8, 12
WORK = Path("tour")

# %% [markdown]
# ## Train
# A recipe is a config that can be changed; misspelt options are errors. Training resumes where it
# was if this cell is run again.

# %%
config = gzjax.recipe("sky")
config.data.galaxies = GALAXIES
config.epochs = EPOCHS
model = gzjax.train(config, WORK / "run", report=gzjax.Report())

# %% [markdown]
# ## Evaluate
# On galaxies that were held out; the baseline predicts the training galaxies' mean for every
# galaxy. `tour/run/report.html` has all of it to look at.

# %%
data = gzjax.load_data(WORK / "run")
result = gzjax.evaluate(model, data, split="test")
low, high = result["rmse_interval"]
print(
    f"RMSE {result['rmse']:.4f} [{low:.4f}, {high:.4f}], baseline {result['baseline_rmse']:.4f}, ",
    end="",
)
print(f"{result['galaxies']} galaxies, {result['data']}")

# %% [markdown]
# ## Look
# What the network says of some test galaxies, in words.

# %%
rows = data.splits["test"][:SHOWN]
pixels = np.stack([data.images[row] for row in rows])
table = model.predict(data.listed(rows))
words = describe.readable(table[list(model.tree.columns)].to_numpy(), model.tree)["morphology"]

figure, places = plt.subplots(-(-len(rows) // 4), 4, figsize=(12, 9), squeeze=False)
for place in places.flat:
    place.axis("off")
for place, image, text in zip(places.flat, pixels, words, strict=False):
    place.imshow(image)
    place.set_title(text.replace(", ", "\n", 1), fontsize=8)

# %% [markdown]
# ## The tree
# Fractions are cumulative: of all volunteers. The answers of a question sum to the answers that
# lead to it.

# %%
for question in model.tree.questions[:4]:
    gates = " or ".join(model.tree.columns[gate] for gate in question.gates) or "always"
    print(f"{question.number} {question.name} (asked after: {gates}):", *question.answers)
fractions = table[list(model.tree.columns)].to_numpy()
print("largest violation:", float(tree.violations(fractions, model.tree).max()))

# %% [markdown]
# A tree of your own is a TOML file. From any numbers, `tree.fractions` makes fractions that obey
# it.

# %%
WORK.mkdir(exist_ok=True)
(WORK / "mine.toml").write_text(
    """
name = "mine"
[[questions]]
name = "shape"
answers = ["smooth", "disk"]
[[questions]]
name = "arms"
answers = ["none", "two", "more"]
asked_after = ["shape_disk"]
"""
)
mine = gzjax.load_tree(WORK / "mine.toml")
fractions = tree.fractions(jax.random.normal(jax.random.key(0), (3, mine.size)), mine, "softmax")
print(dict(zip(mine.columns, np.asarray(fractions[0]).round(3).tolist(), strict=True)))

# %% [markdown]
# ## A loss of your own
# The core is pure functions of arrays. Here the outputs alone are trained further, on the mean
# absolute error, which no recipe has.


# %%
def absolute_error(kernel, features, observed):
    outputs = features @ kernel["kernel"] + kernel["bias"]
    return jnp.abs(tree.fractions(outputs, model.tree, model.activation) - observed).mean()


some = data.splits["train"][:256]
seen = model.embed(data.listed(some))
features, observed = jnp.asarray(seen.features, jnp.float32), jnp.asarray(data.observed(some))
head, optimiser = model.weights.params["classifier"], optax.adam(1e-3)
state, step = optimiser.init(head), jax.jit(jax.value_and_grad(absolute_error))
before = float(step(head, features, observed)[0])
for _ in range(50):
    loss, gradient = step(head, features, observed)
    updates, state = optimiser.update(gradient, state)
    head = optax.apply_updates(head, updates)
after = float(step(head, features, observed)[0])
print(
    f"mean absolute error on {len(some)} training galaxies: {before:.4f} before, {after:.4f} after"
)

# %% [markdown]
# ## Embeddings
# What the network sees in a galaxy. Galaxies whose features have a small angle between them look
# alike.

# %%
images = WORK / "images"
images.mkdir(exist_ok=True)
for row in data.splits["test"]:
    Image.fromarray(data.images[row]).save(images / f"{data.ids[row]}.png")
for name in ("e.parquet", "explore.html", "predicted.csv"):
    (WORK / name).unlink(missing_ok=True)
tested = data.listed(data.splits["test"])
embed.embed_to_file(model, tested, WORK / "e.parquet")
similar = embed.similar(data.ids[rows[0]], WORK / "e.parquet", k=5)
similar

# %% [markdown]
# ## Explore
# Open `tour/explore.html` in a browser: a gallery with filters, a map, trees and neighbours.

# %%
predicted = model.predict(tested)
predicted.drop(columns="fault").to_csv(WORK / "predicted.csv")
explore.write(
    WORK / "predicted.csv",
    WORK / "explore.html",
    trees=[model.tree],
    images=str(images),
    embeddings=WORK / "e.parquet",
    report=gzjax.Report(),
)
