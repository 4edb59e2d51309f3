"""What a TensorBoard server answers, and what a run hands to its writer: to be compared."""

import contextlib
import json
import re
import time
import urllib.parse
import urllib.request
from collections import defaultdict

import numpy as np

from vantage.scripts.documentation.browser import PATIENCE, serve

KEPT = "--samples_per_plugin=scalars=1000,histograms=1000,images=100,text=100"
"""TensorBoard's defaults are less for images and texts."""


class Board:
    """The HTTP interface of a server."""

    def __init__(self, url):
        self.url = url

    def ask(self, path, post=None, **query):
        """The JSON of an answer, or its bytes if it is something else."""
        url = f"{self.url}data/plugin/{path}{'?' if query else ''}{urllib.parse.urlencode(query)}"
        data = None if post is None else json.dumps(post).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
        return json.loads(body) if is_json else body

    def tags(self, plugin, run):
        return sorted(self.ask(f"{plugin}/tags").get(run, ()))

    def scalars(self, run):
        """All points by tag: `[(step, value), …]`, in the order of the server."""
        return {
            tag: [(s, v) for _, s, v in self.ask("scalars/scalars", run=run, tag=tag)]
            for tag in self.tags("scalars", run)
        }

    def histograms(self, run, plugin="histograms"):
        """All points by tag: `[(step, buckets), …]`, or percentiles of plugin="distributions"."""
        return {
            tag: [(s, v) for _, s, v in self.ask(f"{plugin}/{plugin}", run=run, tag=tag)]
            for tag in self.tags(plugin, run)
        }

    def texts(self, run):
        """All texts by tag: `[(step, HTML), …]`."""
        return {
            tag: [(each["step"], each["text"]) for each in self.ask("text/text", run=run, tag=tag)]
            for tag in self.tags("text", run)
        }

    def images(self, run):
        """All images by tag: `[(step, file), …]`."""
        return {
            tag: [
                (each["step"], self.ask(f"images/individualImage?{each['query']}"))
                for each in self.ask("images/images", run=run, tag=tag, sample=0)
            ]
            for tag in self.tags("images", run)
        }

    def everything(self, run):
        """All points of a run; of what the clock measures only the steps, and no addresses."""
        scalars = {
            tag: [(s, None if tag.startswith("time/") else v) for s, v in points]
            for tag, points in self.scalars(run).items()
        }
        return {
            "scalars": scalars,
            "histograms": self.histograms(run),
            "distributions": self.histograms(run, "distributions"),
            "texts": {
                tag: [(step, re.sub("0x[0-9a-f]+", "0x", text)) for step, text in points]
                for tag, points in self.texts(run).items()
            },
            "images": self.images(run),
        }

    def wait(self, run, step):
        """Waits until the server shows a point of a step, or a later one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if "time/fps" in self.tags("scalars", run):
                last = self.ask("scalars/scalars", run=run, tag="time/fps")[-1][1]
                if last >= step:
                    return
            time.sleep(0.2)
        raise AssertionError(f"the server does not show step {step} of {run}")


@contextlib.contextmanager
def boards(folder, *flags):
    """Two servers: one with TensorBoard's data server (where there is one), one without it."""
    with serve(folder, KEPT, *flags) as first, serve(folder, KEPT, "--load_fast=false") as second:
        yield Board(first), Board(second)


class Recorder:
    """A callback that hears all that a run hands to its writer, by kind and tag."""

    def __init__(self):
        self.scalars, self.histograms, self.texts, self.images = (
            defaultdict(list) for _ in range(4)
        )
        self.points = defaultdict(list)

    def __call__(self, step, values):
        for tag, value in values.items():
            self.points[tag].append((step, float(np.float32(value))))

    def begin(self, writer):
        scalars, histograms, text, video = (
            getattr(writer, name) for name in ("scalars", "histograms", "text", "video")
        )

        def hear_scalars(step, values):
            for tag, value in values.items():
                self.scalars[tag].append((step, float(np.float32(value))))
            scalars(step, values)

        def hear_histograms(step, values):
            for tag, array in values.items():
                self.histograms[tag].append((step, np.array(array, np.float64)))
            histograms(step, values)

        def hear_text(step, tag, markdown):
            self.texts[tag].append((step, markdown))
            text(step, tag, markdown)

        def hear_video(step, tag, gif, shape):
            self.images[tag].append((step, gif))
            video(step, tag, gif, shape)

        writer.scalars, writer.histograms = hear_scalars, hear_histograms
        writer.text, writer.video = hear_text, hear_video
