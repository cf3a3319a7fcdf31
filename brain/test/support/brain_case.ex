defmodule Brain.BrainCase do
  @moduledoc """
  The processes behind the link, with the test in the link's place: it sends parts as the link deals
  them out, and gets the commands. The link itself is tested by `Brain.LinkTest`, with the real
  program.
  """
  use ExUnit.CaseTemplate

  alias Brain.{Core, Metrics}
  alias Brain.Link.{Credit, Dispatch, Terms}

  using do
    quote do
      import Brain.BrainCase
    end
  end

  setup tags do
    Credit.init()
    Credit.reset(:full)
    Metrics.init()
    Process.register(self(), Brain.Link)
    config = config(Map.get(tags, :config, []))
    core = start_supervised!({Core, config: config})
    # Liveness asks how the connections are as soon as it runs.
    send(Brain.Liveness, {:link_up, self()})
    {:ok, config: config, core: core}
  end

  def config(changes \\ []) do
    Map.merge(
      %{
        id: "brain-1",
        incarnation: 1,
        version: "0.1.0",
        listen: "127.0.0.1:0",
        shards: 2,
        tick_ms: 10,
        count_tick_ms: 50,
        full_limit: 500,
        state_max_bytes: 100_000,
        sessions_listed: 10,
        down_after_ms: 3_000,
        forget_after_ms: 60_000,
        digest_ms: 10_000,
        repairs: 4,
        listen_ms: 50,
        traces: true,
        log_level: :info,
        log_format: :pretty
      },
      Map.new(changes)
    )
  end

  @doc "Deals events out as the link does."
  def tell(events, quiet_ms \\ 60_000, shards \\ 2) do
    now = System.monotonic_time(:millisecond)
    # What the link would remember of when each incarnation was heard.
    heard = for {:beat, s, e, _, _, _, _, _, _} <- events, into: %{}, do: {{s, e}, now - quiet_ms}
    dealt = Dispatch.deal(events, shards, heard, now)
    if dealt.malformed > 0, do: Metrics.add(:malformed, dealt.malformed)
    for {kind, n} <- dealt.counted, do: Metrics.add_from_link(kind, n)

    for {part, events} <- dealt.parts do
      name = if part == :liveness, do: Brain.Liveness, else: Brain.Shard.name(part)
      send(name, {:part, make_ref(), self(), events})
    end

    :ok
  end

  def up, do: tell([{:spine, :control, :up}, {:spine, :brain, :up}])

  def beat(shield, epoch, uptime, opts \\ []) do
    {:beat, shield, epoch, uptime, opts[:goodbye] || false, opts[:root] || 0, 0, 0,
     opts[:recent] || []}
  end

  def changes(account, shield, epoch, first, changes, traces \\ []) do
    {:changes, account, shield, epoch, first, length(changes), traces, Terms.encode(changes)}
  end

  def active(account, shield, epoch, marks, traces \\ []) do
    {:active, account, shield, epoch, traces, Terms.encode(marks)}
  end

  def page(account, shield, epoch, seq, request, number, last?, entries) do
    {:page, account, shield, epoch, seq, request, number, last?, Terms.encode(entries)}
  end

  def put(epoch, shield, room, n, seq),
    do: {:put, Brain.World.entry(epoch, shield, room, n, seq, 0)}

  @doc "Waits until `fun` is true, as long as it takes a loaded machine."
  def until(fun, what \\ "it", deadline \\ 30_000)

  def until(_, what, left) when left <= 0,
    do: raise(ExUnit.AssertionError, message: "never #{what}")

  def until(fun, what, left) do
    if fun.() do
      :ok
    else
      Process.sleep(20)
      until(fun, what, left - 20)
    end
  end

  @doc "How much a counter has grown since `fun` began, once it has."
  def grows(counter, fun) do
    before = Metrics.get(counter)
    result = fun.()
    until(fn -> Metrics.get(counter) > before end, "counted as #{inspect(counter)}")
    result
  end

  @doc "The next command that `fun` accepts; others are dropped."
  def command(fun, left \\ 30_000) do
    receive do
      {:"$gen_cast", {:commands, commands}} ->
        for({cost, _} <- commands, do: cost) |> Enum.sum() |> Credit.give()

        case Enum.find(commands, fn {_, command} -> fun.(command) end) do
          {_, command} -> command
          nil -> command(fun, left)
        end
    after
      left -> raise ExUnit.AssertionError, message: "no such command came"
    end
  end

  @doc "Beats of a Shield that tell the truth, until this Brain is warm."
  def warm(shield, epoch) do
    until(
      fn ->
        # A uptime that grows, and the root that the shards have.
        tell([beat(shield, epoch, System.unique_integer([:positive, :monotonic]))])
        Brain.Liveness.ready() == :ok
      end,
      "warm"
    )
  end
end
