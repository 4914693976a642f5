"""Which published data `launch/data` knows: where they are, whom to cite, what trains on them.

Sizes, checksums and licences are not written here: the archives are asked for them.

Sources: the records' pages on Zenodo; data.galaxyzoo.org, which links the table of Hart et al.
2016; the challenge's page on Kaggle.
"""

import dataclasses
from collections.abc import Mapping

ZENODO = "https://zenodo.org"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published set of galaxies.

    title, citation: for people; the citation is what its authors ask for.
    licence: where no archive says it; "" where Zenodo or the hub is asked.
    zenodo: number of a record; "" if there is none.
    files: patterns of names in the record, or in the competition; those that are fetched.
    urls: {name: URL} of files that lie elsewhere; nobody publishes their checksums.
    kaggle: name of a competition; "" if there is none.
    table: how votes and images come together, see `gzjax.at_hand.join`; "" if they need not.
    options: of the command that trains; {table} is the joined table.
    lacking: what is needed first, "" if the command works at once.
    """

    title: str
    citation: str
    licence: str = ""
    zenodo: str = ""
    files: tuple[str, ...] = ()
    urls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kaggle: str = ""
    table: str = ""
    options: str = ""
    lacking: str = ""


SETS = {
    "challenge": Published(
        title="The Galaxy Zoo challenge: 61,578 galaxies with vote fractions",
        citation="Willett et al. 2013, MNRAS 435, 2835 (arXiv:1308.3496)",
        licence="the rules of the competition, which you accept on its page",
        kaggle="galaxy-zoo-the-galaxy-challenge",
        files=("training_solutions_rev1.zip", "images_training_rev1.zip"),
        options="--config gz2",
    ),
    "gz2": Published(
        title="Galaxy Zoo 2: all images, and the votes of Hart et al. 2016",
        citation="Willett et al. 2013, MNRAS 435, 2835 (arXiv:1308.3496); Hart et al. 2016, "
        "MNRAS 461, 3663 (arXiv:1607.01019)",
        zenodo="3565489",
        files=("images_gz2.zip", "gz2_filename_mapping.csv"),
        urls={"gz2_hart16.csv.gz": "https://gz2hart.s3.amazonaws.com/gz2_hart16.csv.gz"},
        table="gz2",
        options="--config gz2 --config.data.table={table}",
    ),
    "decals": Published(
        title="Galaxy Zoo DECaLS: images of DR5 and their volunteers' votes",
        citation="Walmsley et al. 2022, MNRAS 509, 3966 (arXiv:2102.08414)",
        zenodo="4573248",
        files=("gz_decals_volunteers_5.parquet", "gz_decals_dr5_png_part*.zip"),
        table="decals",
        options="--config decals --config.data.table={table}",
    ),
    "desi": Published(
        title="Galaxy Zoo DESI: the volunteers' votes on DR8, without images",
        citation="Walmsley et al. 2023, MNRAS 526, 4768 (arXiv:2309.11425)",
        zenodo="8360385",
        files=("gz_desi_gzd8_volunteer_core_catalog.parquet", "schema.md"),
        options="--config decals --config.data.tree=desi --config.data.images=images"
        " --config.data.table=gz_desi_gzd8_volunteer_core_catalog.parquet",
        lacking="The record holds no images. Put cut-outs called by their dr8_id into the folder "
        "images first, or take hf:mwalmsley/gz_desi, which has them.",
    ),
}

HUB = "hf:"
