defmodule Brain.LinkTest do
  @moduledoc """
  The real `arqon-brain-link`, without a NATS server: its hello, its crash, its stop, its hang.

  `scripts/brain --link` builds it. Without it these tests fail rather than pass unseen; to run the
  others alone: `mix test --exclude link`.
  """
  use ExUnit.Case, async: false

  alias Brain.{Core, Health, Link, Liveness, Metrics, Shard}
  alias Brain.Link.Credit

  @moduletag :link
  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  setup %{tmp_dir: folder} do
    program = Path.expand("priv/arqon-brain-link")

    if not File.exists?(program) do
      raise "priv/arqon-brain-link is missing: run scripts/brain --link, or mix test --exclude link"
    end

    creds = Path.join(folder, "nobody.creds")
    File.write!(creds, "none")
    File.chmod!(creds, 0o600)
    manifest = Path.join(folder, "config.toml")

    File.write!(manifest, """
    [node]
    id = "brain-test"

    [spine]
    servers = ["nats://127.0.0.1:9"]
    control_creds_file = "nobody.creds"

    [brain]
    creds_file = "nobody.creds"
    listen = "127.0.0.1:0"
    shards = 3
    tick_ms = 20

    [log]
    level = "error"
    """)

    # As the application does, whose process outlives all of this.
    Credit.init()
    Metrics.init()
    :persistent_term.erase({Link, :config})
    :persistent_term.erase({Link, :go})
    on_exit(fn -> :persistent_term.erase({Link, :go}) end)
    {:ok, program: program, manifest: manifest}
  end

  defp start(c) do
    link = {Link, program: c.program, manifest: c.manifest}
    children = [link, {Core, []}]
    options = [strategy: :one_for_one, max_restarts: 20, max_seconds: 60]

    start_supervised!(%{
      id: :brain,
      type: :supervisor,
      start: {Supervisor, :start_link, [children, options]}
    })
  end

  defp until(fun, left \\ 60_000)
  defp until(_, left) when left <= 0, do: flunk("never came true")

  defp until(fun, left) do
    if fun.() do
      :ok
    else
      Process.sleep(50)
      until(fun, left - 50)
    end
  end

  defp os_pid do
    :sys.get_state(Link).os_pid
  catch
    # It is being started again.
    :exit, _ -> nil
  end

  defp alive?(pid) do
    # A zombie is not alive, though its number still is.
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} -> not String.contains?(stat, ") Z ")
      _ -> false
    end
  end

  defp signal(name, pid), do: {_, 0} = System.cmd("kill", ["-#{name}", "#{pid}"])

  # The link has answered a ping, and the connections it tells are down.
  defp answers? do
    pid = Process.whereis(Link)
    pid != nil and :sys.get_state(pid).ping > 0 and :sys.get_state(pid).pings == 0
  catch
    :exit, _ -> false
  end

  test "its hello configures, and it answers", c do
    start(c)
    assert %{id: "brain-test", shards: 3, tick_ms: 20} = Link.config()
    assert Process.whereis(Shard.name(2)) && !Process.whereis(Shard.name(3))
    until(&answers?/0)
    # What it could do without a connection, it says itself.
    assert Liveness.ready() == {:error, "no connection to CONTROL"}
    until(fn -> Credit.left() == Credit.initial() end)
  end

  test "a wrong manifest ends Brain with its status", c do
    File.write!(c.manifest, "node = 1\n")
    Process.flag(:trap_exit, true)
    me = self()
    opts = [program: c.program, manifest: c.manifest, halt: &send(me, {:halt, &1})]
    assert {:error, :wrong_manifest} = Link.start_link(opts)
    assert_received {:halt, 64}
  end

  test "a link that is killed is started again, and the shards live on", c do
    start(c)
    shards = for n <- 0..2, do: Process.whereis(Shard.name(n))
    restarts = Metrics.get(:link_restarts)

    for _ <- 1..3 do
      old = os_pid()
      signal("KILL", old)
      until(fn -> os_pid() not in [nil, old] end)
      until(&answers?/0)
    end

    assert Metrics.get(:link_restarts) == restarts + 3
    assert shards == for(n <- 0..2, do: Process.whereis(Shard.name(n)))
    assert Credit.left() > 0
  end

  test "a link that hangs is killed and started again", c do
    start(c)
    until(&answers?/0)
    old = os_pid()
    signal("STOP", old)
    # It reads nothing meanwhile: what is sent waits here, and nothing blocks.
    for n <- 1..200, do: Link.command({:sync, String.duplicate("A", 10_000), "s", 1, n})
    assert Liveness.ready() == {:error, "no connection to CONTROL"}
    until(fn -> not alive?(old) end)
    until(&answers?/0)
    assert os_pid() != old
  end

  test "it ends when Brain does", c do
    start(c)
    pid = os_pid()
    assert alive?(pid)
    stop_supervised!(:brain)
    until(fn -> not alive?(pid) end)
  end

  test "health is told over HTTP", c do
    start(c)
    assert {200, "ok\n"} = get("/healthz")
    assert {503, "no connection to CONTROL\n"} = get("/readyz")
    assert {200, metrics} = get("/metrics")
    assert metrics =~ ~r/^arqon_brain_changes_total \d+$/m
    assert metrics =~ ~r/^arqon_brain_syncs_total\{reason="gap"\} \d+$/m
    assert metrics =~ ~r/^arqon_brain_warm 0$/m
    assert metrics =~ ~r/^arqon_brain_beam_memory_bytes [1-9]\d+$/m
    # The link's own.
    assert metrics =~ ~r/^process_resident_memory_bytes [1-9]\d+$/m
    assert metrics =~ ~r/^arqon_telemetry_spans_exported_total 0$/m
    assert metrics =~ ~r/\n# EOF\n\z/
    assert head("/metrics") =~ "application/openmetrics-text; version=1.0.0; charset=utf-8"
    # A number told is a number shown.
    Metrics.add(:parked, 1_000_000_007)
    {200, metrics} = get("/metrics")
    assert metrics =~ ~r/^arqon_brain_parked_total 10000000\d\d$/m
    # Every family has its help and type once.
    types = Regex.scan(~r/^# TYPE (\S+)/m, metrics, capture: :all_but_first)
    assert types == Enum.uniq(types)
    assert {404, _} = get("/")
    assert {405, _} = request("POST /healthz HTTP/1.1\r\n\r\n")
    assert {400, _} = request("nonsense\r\n\r\n")
    # One that says nothing takes a place for two seconds, and no more.
    for _ <- 1..10, do: connect()
    assert {200, _} = get("/healthz")
    assert Health.parse("[::1]:80") == {{0, 0, 0, 0, 0, 0, 0, 1}, 80}
  end

  test "without the link there are no metrics, and it is said why", c do
    start(c)
    until(&answers?/0)
    pid = os_pid()
    signal("STOP", pid)
    assert {503, "no metrics: the link does not answer\n"} = get("/metrics")
    assert {200, "ok\n"} = get("/healthz")
    signal("CONT", pid)
    until(fn -> match?({200, _}, get("/metrics")) end)
    # Those that nobody waits for any more are forgotten.
    until(fn -> :sys.get_state(Link).scrapes == %{} end)

    Supervisor.terminate_child(supervisor(), Link)
    assert {503, "no metrics: the link is down\n"} = get("/metrics")
    {:ok, _} = Supervisor.restart_child(supervisor(), Link)
    until(fn -> match?({200, _}, get("/metrics")) end)
  end

  test "a link that was started again has all counts", c do
    start(c)
    until(&answers?/0)
    Metrics.add(:syncs_done, 3)
    before = Metrics.get(:syncs_done)
    old = os_pid()
    signal("KILL", old)
    until(fn -> os_pid() not in [nil, old] end)
    until(fn -> match?({200, _}, get("/metrics")) end)
    {200, metrics} = get("/metrics")
    assert metrics =~ ~r/^arqon_brain_syncs_done_total #{before}$/m
  end

  defp supervisor do
    {_, pid, _, _} =
      ExUnit.fetch_test_supervisor() |> elem(1) |> Supervisor.which_children() |> hd()

    pid
  end

  defp head(path) do
    socket = connect()
    :ok = :gen_tcp.send(socket, "GET #{path} HTTP/1.1\r\nhost: x\r\n\r\n")
    [head, _] = socket |> read("") |> String.split("\r\n\r\n", parts: 2)
    head
  end

  defp connect do
    {ip, port} = Health.address()
    {:ok, socket} = :gen_tcp.connect(ip, port, [:binary, active: false])
    socket
  end

  defp get(path), do: request("GET #{path} HTTP/1.1\r\nhost: x\r\n\r\n")

  defp request(text) do
    socket = connect()
    :ok = :gen_tcp.send(socket, text)
    [head, body] = socket |> read("") |> String.split("\r\n\r\n", parts: 2)
    "HTTP/1.1 " <> <<status::binary-3>> <> _ = head
    {String.to_integer(status), body}
  end

  defp read(socket, so_far) do
    case :gen_tcp.recv(socket, 0, 10_000) do
      {:ok, bytes} -> read(socket, so_far <> bytes)
      {:error, :closed} -> so_far
    end
  end
end
