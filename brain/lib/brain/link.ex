defmodule Brain.Link do
  @moduledoc """
  Owns the port to `arqon-brain-link`: reads its batches and deals them out, and sends commands.

  A port has no `{active, N}`, so what may be under way is bounded by credit, see
  `Brain.Link.Credit`. Nothing here waits for the link: a stopped one makes `nosuspend` refuse,
  and then at most the credit's worth of commands waits in this process.
  """
  use GenServer

  alias Brain.{Config, Log, Metrics, Shard}
  alias Brain.Link.{Credit, Dispatch, Terms}

  @hello_ms 30_000
  @ping_ms 1_000
  # Counted in pings, not in time: a Brain that was itself stopped finds the answers in its mailbox.
  @most_pings 5
  # Whoever asks for metrics asks again.
  @scrape_ms 1_000
  @retry_ms 20
  # A wrong manifest, told on standard error by the link itself.
  @wrong_manifest 64
  # One frame to the link holds about this much.
  @frame_bytes 512 * 1024

  defstruct [
    :port,
    :config,
    :os_pid,
    go?: false,
    held: [],
    waiting: :queue.new(),
    back: 0,
    open: %{},
    heard: %{},
    monitors: %{},
    spine: %{control: :down, brain: :down},
    pings: 0,
    ping: 0,
    scrapes: %{},
    scrape: 0,
    retrying?: false
  ]

  ## Client

  @doc "Options: `program` and `manifest`, paths; `halt`, called with 64 for a wrong manifest."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts),
    do: GenServer.start_link(__MODULE__, opts, name: __MODULE__, timeout: 60_000)

  @doc "The manifest, as the first hello told it."
  @spec config() :: Config.t()
  def config, do: :persistent_term.get({__MODULE__, :config})

  @doc "All who get events have begun: deal them out."
  @spec go() :: :ok
  def go do
    :persistent_term.put({__MODULE__, :go}, true)
    GenServer.cast(__MODULE__, :go)
  end

  @doc "Liveness has begun and wants to know how the connections are."
  @spec liveness_up() :: :ok
  def liveness_up, do: GenServer.cast(__MODULE__, {:liveness_up, self()})

  @doc "Sends a command that is never kept back."
  @spec command(tuple) :: :ok
  def command(command), do: commands([{:erlang.external_size(command), command}])

  @doc "Sends commands; whoever could keep them looks at the credit first."
  @spec commands([{non_neg_integer, tuple}]) :: :ok
  def commands([]), do: :ok

  def commands(commands) do
    Credit.take(commands |> Enum.map(&elem(&1, 0)) |> Enum.sum())
    GenServer.cast(__MODULE__, {:commands, commands})
  end

  @doc "Sends spans if nothing that matters more could be held back by them; false if not."
  @spec spans([tuple]) :: boolean
  def spans(spans) do
    free? = Credit.left() > div(Credit.initial(), 2)
    if free?, do: command({:spans, spans})
    free?
  end

  @doc "All metrics, this Brain's and the link's, as OpenMetrics text; or why there are none."
  @spec metrics() :: {:ok, binary} | {:error, String.t()}
  def metrics do
    GenServer.call(__MODULE__, :metrics, @scrape_ms)
  catch
    :exit, {:timeout, _} -> {:error, "no metrics: the link does not answer"}
    :exit, _ -> {:error, "no metrics: the link is down"}
  end

  @doc "A process is done with its part of a batch."
  @spec done(pid, reference, Dispatch.part()) :: :ok
  def done(link, ref, part), do: GenServer.cast(link, {:done, ref, part})

  ## Server

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    args = [Keyword.fetch!(opts, :manifest)]
    options = [{:packet, 4}, :binary, :exit_status, :hide, args: args]
    port = Port.open({:spawn_executable, Keyword.fetch!(opts, :program)}, options)
    os_pid = with {:os_pid, pid} <- Port.info(port, :os_pid), do: pid
    halt = Keyword.get(opts, :halt, &System.halt/1)

    with {:ok, config} <- hello(port, halt) do
      Credit.reset(:full)
      config = settle(config)
      Process.send_after(self(), :ping, @ping_ms)
      go? = :persistent_term.get({__MODULE__, :go}, false)
      state = %__MODULE__{port: port, os_pid: os_pid, config: config, go?: go?}
      if go?, do: Metrics.add(:link_restarts, 1)
      {:ok, tell_liveness(monitor_all(state))}
    end
  end

  defp hello(port, halt) do
    receive do
      {^port, {:data, frame}} ->
        with {:ok, {:hello, 2, hello}} <- Terms.decode(frame),
             {:ok, config} <- Config.new(hello) do
          {:ok, config}
        else
          {:error, why} -> {:stop, {:bad_hello, why}}
          _ -> {:stop, :bad_hello}
        end

      {^port, {:exit_status, @wrong_manifest}} ->
        halt.(@wrong_manifest)
        {:stop, :wrong_manifest}

      {^port, {:exit_status, status}} ->
        {:stop, {:link_exited, status}}
    after
      @hello_ms -> {:stop, :no_hello}
    end
  end

  # The first hello holds for the life of this VM: shards and tables were made by it.
  defp settle(config) do
    case :persistent_term.get({__MODULE__, :config}, nil) do
      nil ->
        :persistent_term.put({__MODULE__, :config}, config)
        Logger.configure(level: Config.log_level(config))
        Log.set_format(config.log_format)
        config

      first ->
        if Map.drop(first, [:incarnation]) != Map.drop(config, [:incarnation]) do
          Log.warn("The manifest has changed; restart Brain to use it", [])
        end

        first
    end
  end

  # Answered when the link has: it knows the names, and its own numbers.
  @impl true
  def handle_call(:metrics, from, state) do
    id = state.scrape + 1

    if urgent({:scrape, id, Metrics.numbers()}, state),
      do: {:noreply, %{state | scrape: id, scrapes: Map.put(state.scrapes, id, {from, now()})}},
      else: {:reply, {:error, "no metrics: the link does not read"}, state}
  end

  @impl true
  def handle_cast({:commands, commands}, state) do
    {:noreply, commands |> frames() |> Enum.reduce(state, &push/2)}
  end

  def handle_cast({:done, ref, part}, state) do
    {open, back} = Credit.done(state.open, ref, part)
    {:noreply, give_back(%{state | open: open}, back)}
  end

  def handle_cast(:go, state) do
    state = monitor_all(%{state | go?: true, held: []}) |> replay(Enum.reverse(state.held))
    {:noreply, state}
  end

  def handle_cast({:liveness_up, _pid}, state), do: {:noreply, tell_liveness(monitor_all(state))}

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    {:noreply, read(frame, state)}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    Log.error("The link exited", status: status)
    # A shutdown: said above, and a crash report would print what waits to be sent.
    {:stop, {:shutdown, {:link_exited, status}}, %{state | port: nil}}
  end

  def handle_info(:ping, %{pings: pings} = state) when pings >= @most_pings do
    Log.error("The link does not answer, killing it", pid: state.os_pid)
    {:stop, {:shutdown, :link_hangs}, state}
  end

  def handle_info(:ping, state) do
    Process.send_after(self(), :ping, @ping_ms)
    write(state.port, Terms.encode({:ping, state.ping + 1}))
    urgent({:numbers, Metrics.numbers()}, state)
    since = now() - @scrape_ms
    scrapes = Map.filter(state.scrapes, fn {_, {_, at}} -> at >= since end)
    {:noreply, %{state | pings: state.pings + 1, ping: state.ping + 1, scrapes: scrapes}}
  end

  def handle_info(:retry, state), do: {:noreply, drain(%{state | retrying?: false})}

  def handle_info({:DOWN, monitor, _, _, _}, state) do
    case Map.pop(state.monitors, monitor) do
      {nil, _} ->
        {:noreply, state}

      {part, monitors} ->
        {open, back} = Credit.died(state.open, part)
        {:noreply, give_back(%{state | open: open, monitors: monitors}, back)}
    end
  end

  def handle_info({:EXIT, port, _}, %{port: port} = state),
    do: {:stop, {:shutdown, :link_exited}, state}

  def handle_info({:EXIT, _, reason}, state), do: {:stop, reason, state}

  @impl true
  def terminate(reason, state) do
    Credit.reset(:none)

    # A link that hangs does not see the end of its input.
    if reason == {:shutdown, :link_hangs} and is_integer(state.os_pid) do
      System.cmd("kill", ["-9", Integer.to_string(state.os_pid)])
    end
  end

  ## Reading

  defp read(frame, state) do
    case Terms.decode(frame) do
      {:ok, {:pong, _}} ->
        %{state | pings: 0}

      {:ok, {:credit, n}} when is_integer(n) and n >= 0 ->
        Credit.give(n)
        state

      {:ok, {:scraped, id, text}} when is_binary(text) ->
        scraped(id, text, state)

      {:ok, {:batch, cost, events}} when is_integer(cost) and cost >= 0 ->
        if state.go?,
          do: deal(cost, events, state),
          else: %{state | held: [{cost, events} | state.held]}

      _ ->
        Metrics.add(:malformed, 1)
        state
    end
  end

  defp replay(state, held) do
    Enum.reduce(held, state, fn {cost, events}, state -> deal(cost, events, state) end)
  end

  defp deal(cost, events, state) do
    now = now()
    dealt = Dispatch.deal(events, state.config.shards, state.heard, now)
    if dealt.malformed > 0, do: Metrics.add(:malformed, dealt.malformed)
    for {kind, n} <- dealt.counted, do: Metrics.add_from_link(kind, n)
    ref = make_ref()

    parts =
      for {part, events} <- dealt.parts, pid = Process.whereis(name(part)) do
        send(pid, {:part, ref, self(), events})
        part
      end

    state = %{state | heard: dealt.heard, spine: spine(state.spine, dealt.parts[:liveness])}
    watched = Map.values(state.monitors)
    state = if Enum.all?(parts, &(&1 in watched)), do: state, else: monitor_all(state)
    {open, back} = Credit.dealt(state.open, ref, cost, parts)
    give_back(%{state | open: open}, back)
  end

  defp spine(spine, nil), do: spine

  defp spine(spine, events) do
    Enum.reduce(events, spine, fn
      {:spine, which, how}, spine -> Map.put(spine, which, how)
      _, spine -> spine
    end)
  end

  # Whoever dies takes its mailbox along; the cost of what was in it must still go back.
  defp monitor_all(state) do
    watched = Map.values(state.monitors)

    monitors =
      for part <- [:liveness | Enum.to_list(0..(state.config.shards - 1))],
          part not in watched,
          pid = Process.whereis(name(part)),
          into: state.monitors,
          do: {Process.monitor(pid), part}

    %{state | monitors: monitors}
  end

  defp name(:liveness), do: Brain.Liveness
  defp name(index), do: Shard.name(index)

  defp tell_liveness(state) do
    if pid = Process.whereis(Brain.Liveness) do
      send(pid, {:link_up, self()})
      events = for {which, how} <- state.spine, do: {:spine, which, how}
      send(pid, {:part, make_ref(), self(), events})
    end

    state
  end

  defp scraped(id, text, state) do
    {scrape, scrapes} = Map.pop(state.scrapes, id)
    with {from, _} <- scrape, do: GenServer.reply(from, {:ok, text})
    %{state | scrapes: scrapes}
  end

  ## Writing

  defp frames(commands) do
    commands
    |> Enum.chunk_while(
      {[], 0},
      fn {cost, command}, {chunk, size} ->
        if chunk != [] and size + cost > @frame_bytes,
          do: {:cont, frame(chunk, size), {[command], cost}},
          else: {:cont, {[command | chunk], size + cost}}
      end,
      fn {chunk, size} -> {:cont, frame(chunk, size), nil} end
    )
  end

  defp frame(commands, cost), do: Terms.encode({:batch, cost, Enum.reverse(commands)})

  # What comes back is a sum: nothing has to wait in a queue for it.
  defp give_back(state, 0), do: state

  defp give_back(state, n) do
    back = state.back + n

    if write(state.port, Terms.encode({:credit, back})),
      do: %{state | back: 0},
      else: retry(%{state | back: back})
  end

  # Now or not at all: it would only grow old in a queue.
  defp urgent(term, state) do
    :queue.is_empty(state.waiting) and write(state.port, Terms.encode(term))
  end

  defp push(frame, state) do
    if :queue.is_empty(state.waiting) and write(state.port, frame),
      do: state,
      else: retry(%{state | waiting: :queue.in(frame, state.waiting)})
  end

  defp retry(%{retrying?: true} = state), do: state

  defp retry(state) do
    Process.send_after(self(), :retry, @retry_ms)
    %{state | retrying?: true}
  end

  defp drain(state) do
    state = if state.back > 0, do: give_back(%{state | back: 0}, state.back), else: state

    case :queue.peek(state.waiting) do
      {:value, frame} ->
        if write(state.port, frame),
          do: drain(%{state | waiting: :queue.drop(state.waiting)}),
          else: retry(state)

      :empty ->
        state
    end
  end

  # False if the link does not read; the port is about to say so if it is gone.
  defp write(port, frame) do
    Port.command(port, frame, [:nosuspend])
  rescue
    ArgumentError -> true
  end

  defp now, do: System.monotonic_time(:millisecond)
end
