"""A processor that listens, and what writes the log that it follows."""

import json
import urllib.error
import urllib.request

from conftest import wait_until
from prometheus_client.parser import text_string_to_metric_families

from processor.shell.generate import LogShape, generate


class Writer:
    """Appends a generated log to a file, share by share, in whole lines."""

    def __init__(self, path, **shape):
        self.path = path
        self.written = 0
        self._lines = [f"{line}\n" for line in generate(LogShape(**shape))]

    def write(self, share):
        """Append up to this share of the log."""
        end = int(len(self._lines) * share)
        with self.path.open("a") as log:
            log.writelines(self._lines[self.written : end])
        self.written = end


class Listening:
    """A processor that was started with `--listen`, and where."""

    def __init__(self, command, *arguments, **options):
        self.process = command.start("run", *arguments, "--listen", "127.0.0.1:0", **options)
        for line in self.process.stderr:
            event = json.loads(line)["event"]
            if event.startswith("listening on "):
                self.url = event.removeprefix("listening on ")
                return
        raise AssertionError(self.process.communicate())

    def get(self, path):
        """Return status and text."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        """Return {name: {labels: value}} of all samples; labels as a tuple of their values."""
        status, text = self.get("/metrics")
        assert status == 200
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sample.labels.values())
                samples.setdefault(sample.name, {})[labels] = sample.value
        return samples

    def value(self, name, *labels):
        """Return the value of a sample."""
        return self.metrics()[name][labels]

    def wait_for(self, path, status, words=""):
        """Wait for an answer."""

        def has_come():
            found, text = self.get(path)
            return found == status and words in text

        wait_until(has_come, what=f"{path}: {status} {words}")
