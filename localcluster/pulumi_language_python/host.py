"""The LanguageRuntime service of Pulumi for Python programs."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from localcluster.pulumi_language_python.child import ProgramProcess
from localcluster.pulumi_language_python.interpreter import Interpreter, OptionError, interpreter_of, virtualenv_of
from localcluster.pulumi_language_python.packages import distributions, required_plugins
from localcluster.pulumi_language_python.program import USER_WAS_TOLD


def _options(info: Any) -> dict[str, Any]:
    return json_format.MessageToDict(info.options)


def _interpreter(info: Any) -> Interpreter:
    return interpreter_of(_options(info), Path(info.root_directory))


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Runs programs; calls may come at the same time from several operations of one engine."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._running: set[ProgramProcess] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Interrupts every running program."""
        with self._lock:
            running = list(self._running)
        for program in running:
            program.interrupt()

    def Handshake(self, request: Any, context: Any) -> Any:
        self._engine = request.engine_address
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=version("pulumi"))

    def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        """What the engine must have before it runs the program; nothing where the Python isn't made yet."""
        try:
            plugins = required_plugins(_interpreter(request.info))
        except OptionError:
            # Run says what is wrong, in its place.
            plugins = []
        return language_pb2.GetRequiredPackagesResponse(
            packages=[
                plugin_pb2.PackageDependency(
                    name=plugin.name, kind="resource", version=plugin.version, server=plugin.server
                )
                for plugin in plugins
            ]
        )

    def GetRequiredPlugins(self, request: Any, context: Any) -> Any:
        return language_pb2.GetRequiredPluginsResponse()

    def Run(self, request: Any, context: Any) -> Any:
        """Runs the program to its end. `bail` tells the engine that the user has already seen the reason."""
        if request.attach_debugger:
            return language_pb2.RunResponse(
                error="this stand-in language host has no debugger support: install the official bundle"
            )
        try:
            program = ProgramProcess(request, _interpreter(request.info), self._engine)
        except OptionError as error:
            return language_pb2.RunResponse(error=str(error))
        with self._lock:
            self._running.add(program)
        # The engine gave up waiting, or is gone: the program must not go on.
        context.add_callback(lambda: threading.Thread(target=program.interrupt, daemon=True).start())
        try:
            code = program.wait()
        finally:
            with self._lock:
                self._running.discard(program)
        if code == 0:
            return language_pb2.RunResponse()
        if code == USER_WAS_TOLD:
            return language_pb2.RunResponse(bail=True)
        reason = f"was ended by signal {-code}" if code < 0 else f"exited with non-zero exit code: {code}"
        return language_pb2.RunResponse(error=f"program {reason}")

    def Cancel(self, request: Any, context: Any) -> Any:
        self.stop()
        return empty_pb2.Empty()

    def About(self, request: Any, context: Any) -> Any:
        try:
            executable = _interpreter(request.info).executable
            python = _interpreter(request.info).evaluate(
                "import json, platform; print(json.dumps(platform.python_version()))"
            )
        except OptionError as error:
            return context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return language_pb2.AboutResponse(
            executable=str(executable), version=str(python), metadata={"languageHost": "stand-in of llm-serving"}
        )

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        try:
            found = distributions(_interpreter(request.info))
        except OptionError as error:
            return context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[language_pb2.DependencyInfo(name=name, version=number) for name, number in found]
        )

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:
        return language_pb2.RuntimeOptionsResponse()

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        """Makes the virtual environment and installs requirements.txt or the project itself with pip."""
        program = Path(request.info.program_directory or request.directory)
        try:
            virtualenv = virtualenv_of(_options(request.info), Path(request.info.root_directory))
            commands: list[list[str]] = []
            if virtualenv is not None and not (virtualenv / "bin" / "python").exists():
                commands.append([sys.executable, "-m", "venv", str(virtualenv)])
            python = str(virtualenv / "bin" / "python") if virtualenv else str(_interpreter(request.info).executable)
        except OptionError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            return
        if (program / "requirements.txt").exists():
            commands.append([python, "-m", "pip", "install", "-r", "requirements.txt"])
        elif (program / "pyproject.toml").exists():
            commands.append([python, "-m", "pip", "install", "."])
        for command in commands:
            yield language_pb2.InstallDependenciesResponse(stdout=(" ".join(command) + "\n").encode())
            with subprocess.Popen(command, cwd=program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    yield language_pb2.InstallDependenciesResponse(stdout=line)
            if process.returncode != 0:
                context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"`{' '.join(command)}` failed (exit code {process.returncode})",
                )
                return

    def RunPlugin(self, request: Any, context: Any) -> Any:
        return _refuse(context, "run plugins and policy packs written in Python")

    def Template(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def GenerateProgram(self, request: Any, context: Any) -> Any:
        return _refuse(context, "generate code")

    def GenerateProject(self, request: Any, context: Any) -> Any:
        return _refuse(context, "generate code")

    def GeneratePackage(self, request: Any, context: Any) -> Any:
        return _refuse(context, "generate code")

    def Pack(self, request: Any, context: Any) -> Any:
        return _refuse(context, "pack SDKs")

    def Link(self, request: Any, context: Any) -> Any:
        return _refuse(context, "link SDKs")


def _refuse(context: Any, what: str) -> Any:
    return context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"this stand-in for pulumi-language-python can't {what}: install the official Pulumi bundle",
    )


def register(host: LanguageHost, server: grpc.Server) -> None:
    """Adds the service to a gRPC server."""
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
