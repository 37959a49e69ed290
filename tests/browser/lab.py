"""A real JupyterLab, for tests that open notebooks in it, and what they ask it."""

import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat

PATIENCE = 120_000  # ms; a busy machine with two processors is slow, and none of this is a measurement of time
# JupyterLab stumbles over two changes of theme within its splash, ipywidgets over a notebook that has no kernel
THEIRS = ("/static/lab/", "/lab/extensions/@jupyter-widgets/")

OPEN = """async ([path, kernel]) => {
  await jupyterapp.restored;
  const kernelPreference = kernel ? undefined : {shouldStart: false, canStart: true, autoStartDefault: false};
  const panel = await jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook', kernelPreference});
  await panel.context.ready;
  await panel.revealed;
  if (kernel) await panel.sessionContext.ready;
}"""
# the current notebook's kernel, asked the way a cell would ask it
ASK = """async ([code, expression]) => {
  const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const reply = await kernel.requestExecute({code, store_history: false, user_expressions: {it: expression}}).done;
  if (reply.content.status !== 'ok') throw new Error(reply.content.evalue);
  return reply.content.user_expressions.it.data['text/plain'];
}"""
ERRORS = """() => jupyterapp.shell.currentWidget.content.widgets
  .flatMap(c => c.model.sharedModel.outputs ?? [])
  .filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)"""


def call(page, function, argument=None):
    """The result of a JavaScript function, which may take as long as a kernel takes but not for ever."""
    late = f"new Promise((_, no) => setTimeout(() => no(new Error('no answer in {PATIENCE} ms')), {PATIENCE}))"
    return page.evaluate(f"argument => Promise.race([({function})(argument), {late}])", argument)


class Lab:
    """A running JupyterLab with a folder of its own; pages of it are opened in fresh browser profiles."""

    def __init__(self, root, env, log):
        self.root, self.env, self.log = root, env, log
        self.token = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        options = [
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.root}",
            f"--IdentityProvider.token={self.token}",
            "--LabApp.expose_app_in_browser=True",
        ]
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "jupyterlab", *options]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait(self):
        for _ in range(PATIENCE // 200):
            try:
                urllib.request.urlopen(f"{self.home}/api/status?token={self.token}", timeout=10).close()
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text())

    def __exit__(self, *error):
        self.process.terminate()  # the server ends its kernels first; a kernel ends itself when its server is gone
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def page(self, chromium):
        """A page of JupyterLab without a notebook, and a list that fills with its errors and requests to elsewhere."""
        context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(PATIENCE)
        page, complaints = context.new_page(), []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)

        def stumbled(error):
            frame = next((line for line in (error.stack or "").splitlines() if "://" in line), "")
            if not any(place in frame for place in THEIRS):
                complaints.append(error.stack or str(error))

        page.on("pageerror", stumbled)

        def asked(request):
            if request.url.startswith("http") and not request.url.startswith(f"{self.home}/"):
                complaints.append(request.url)

        page.on("request", asked)
        page.goto(f"{self.home}/lab?token={self.token}&reset")
        page.wait_for_function("window.jupyterapp")
        return page, complaints


def write_notebook(path, *sources):
    """A notebook of code cells, with the kernel named: a dialog would ask for it."""
    known = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=known), path)


def opened(page, name):
    """The page with a notebook whose cells all ran."""
    call(page, OPEN, [name, True])
    assert call(page, "() => jupyterapp.commands.execute('notebook:run-all-cells')"), "every cell ran"
    assert page.evaluate(ERRORS) == []
    return page
