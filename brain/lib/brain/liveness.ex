defmodule Brain.Liveness do
  @moduledoc """
  Knows which Shields and Brains live, tells the shards, and says when this Brain is warm.

  The rules of life and death are in `Brain.Incarnations` and `Brain.Peers`. Here is what needs a
  process: the roots that beats tell are compared with those of the shards, digests are asked for
  where they differ, and once every Shield in force was compared and every snapshot fetched, this
  Brain is warm: it answers queries and takes its share of the tenants.
  """
  use GenServer

  alias Brain.{Incarnations, Link, Metrics, Peers, Repairs, Roots, Shard}

  @tick_ms 100
  @beat_ms 1_000
  # Two beats of every Shield must have had time to come.
  @listen_ms 2_000
  # A Shield that beats but tells no digests must not keep every Brain cold for ever.
  @patience_ms 15_000
  # A pause of ours longer than this may have cost the link its memory of what it dropped.
  @stall_ms 2_500
  @most_digests 500_000

  defstruct [
    :config,
    :live,
    :link,
    peers: %{},
    warm?: false,
    up: %{control: false, brain: false},
    up_since: nil,
    settled_at: nil,
    compared: MapSet.new(),
    first_asked: %{},
    streaks: %{},
    told: %{},
    digests: %{},
    comparing: %{},
    emitters: nil,
    last_tick: nil,
    started: nil,
    next_beat: nil,
    leaving?: false
  ]

  ## Client

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "A shard has begun, empty."
  @spec shard_up(non_neg_integer) :: :ok
  def shard_up(index), do: GenServer.cast(__MODULE__, {:shard_up, index, self()})

  @doc "A shard has compared its part of a Shield's digests; `pending` tenants are not decided."
  @spec compared(reference, non_neg_integer, non_neg_integer) :: :ok
  def compared(ref, index, pending) do
    GenServer.cast(__MODULE__, {:compared, ref, index, pending})
  end

  @doc "Whether this Brain answers queries, and why not."
  @spec ready() :: :ok | {:error, String.t()}
  def ready do
    GenServer.call(__MODULE__, :ready, 1_000)
  catch
    :exit, _ -> {:error, "starting"}
  end

  @doc "Stops serving and says goodbye to the other Brains."
  @spec goodbye() :: :ok
  def goodbye do
    GenServer.call(__MODULE__, :goodbye, 5_000)
  catch
    :exit, _ -> :ok
  end

  ## Server

  @impl true
  def init(opts) do
    config = Keyword.fetch!(opts, :config)
    live = Incarnations.new(config.down_after_ms, config.forget_after_ms)
    # Monotonic time may be negative: nothing may begin at 0.
    now = now()
    state = %__MODULE__{config: config, live: live, started: now, last_tick: now, next_beat: now}
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, state, {:continue, :link}}
  end

  # The link tells how its connections are: what came before this process was told to nobody.
  @impl true
  def handle_continue(:link, state) do
    Link.liveness_up()
    {:noreply, state}
  end

  @impl true
  def handle_call(:ready, _, state) do
    {:reply, if(state.warm?, do: :ok, else: {:error, why_cold(state)}), state}
  end

  def handle_call(:goodbye, _, state) do
    state = cool(state)
    send_beat(state, true)
    {:reply, :ok, %{state | leaving?: true}}
  end

  @impl true
  def handle_cast({:shard_up, index, pid}, state) do
    Process.monitor(pid)

    for {id, epoch, seen?} <- Incarnations.in_force(state.live) do
      Shard.incarnation(index, if(seen?, do: :show, else: :adopt), id, epoch)
    end

    {live, warm?} = state.emitters || {[], false}
    Shard.emitters(index, live, warm?)
    # It holds nothing yet: until its part is fetched, answers would be lies.
    {:noreply, cool(state)}
  end

  def handle_cast({:compared, ref, index, pending}, state) do
    case state.comparing do
      %{^ref => c} ->
        c = %{c | left: MapSet.delete(c.left, index), pending: c.pending + pending}

        if MapSet.size(c.left) == 0 do
          state = %{state | comparing: Map.delete(state.comparing, ref)}
          {:noreply, if(c.pending == 0, do: compared_now(state, c.incarnation), else: state)}
        else
          {:noreply, %{state | comparing: Map.put(state.comparing, ref, c)}}
        end

      _ ->
        {:noreply, state}
    end
  end

  @impl true
  def handle_info({:part, ref, link, events}, state) do
    state = Enum.reduce(events, state, &event/2)
    Link.done(link, ref, :liveness)
    {:noreply, state}
  end

  def handle_info({:link_up, link}, state) do
    if state.link, do: Process.demonitor(elem(state.link, 1), [:flush])
    state = %{state | link: {link, Process.monitor(link)}}
    {:noreply, state |> spine(:control, false) |> spine(:brain, false)}
  end

  def handle_info({:DOWN, monitor, _, _, _}, %{link: {_, monitor}} = state) do
    {:noreply, %{state | link: nil} |> spine(:control, false) |> spine(:brain, false)}
  end

  def handle_info({:DOWN, _, _, _, _}, state), do: {:noreply, cool(state)}

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    now = now()
    state = if now - state.last_tick > @stall_ms, do: cool(state), else: state
    {live, effects} = Incarnations.tick(state.live, now)

    state =
      %{state | live: live, last_tick: now, peers: Peers.tick(state.peers, live.clock)}
      |> perform(effects)
      |> compare_roots(now)
      |> warm_up(now)
      |> emitters()

    if now >= state.next_beat and not state.leaving? do
      send_beat(state, false)
      {:noreply, %{state | next_beat: now + @beat_ms}}
    else
      {:noreply, state}
    end
  end

  ## Events of the link

  defp event({:spine, which, how}, state), do: spine(state, which, how == :up)

  defp event({:beat, id, epoch, uptime, goodbye?, root, quiet_ms}, state) do
    {live, effects} = Incarnations.beat(state.live, now(), id, epoch, uptime, goodbye?)
    state = perform(%{state | live: live}, effects)

    if Incarnations.in_force?(live, id, epoch) and {:count, :stale_epoch} not in effects,
      do: %{state | told: Map.put(state.told, {id, epoch}, {uptime, root, quiet_ms, now()})},
      else: state
  end

  defp event({:brain, id, _, _, _, _}, %{config: %{id: id}} = state), do: state

  defp event({:brain, id, incarnation, uptime, warm?, goodbye?}, state) do
    clock = state.live.clock
    peers = Peers.beat(state.peers, clock, id, incarnation, uptime, warm?, goodbye?)
    emitters(%{state | peers: peers})
  end

  # Parts that do not follow on each other are forgotten: the next beat asks again.
  defp event({:digests, id, epoch, number, last?, _root, list}, state) do
    key = {id, epoch}

    state =
      if number == 0 and Incarnations.in_force?(state.live, id, epoch),
        do: %{state | digests: Map.put(state.digests, key, {0, 0, []})},
        else: state

    case state.digests do
      %{^key => {^number, size, lists}} when size + length(list) <= @most_digests ->
        if last? do
          compare_digests(%{state | digests: Map.delete(state.digests, key)}, key, [list | lists])
        else
          entry = {number + 1, size + length(list), [list | lists]}
          %{state | digests: Map.put(state.digests, key, entry)}
        end

      _ ->
        %{state | digests: Map.delete(state.digests, key)}
    end
  end

  defp spine(state, which, up?) do
    up = Map.put(state.up, which, up?)
    both? = up.control and up.brain
    were? = state.up.control and state.up.brain
    state = %{state | up: up}

    cond do
      both? and not were? ->
        %{cool(state) | live: Incarnations.thaw(state.live, now()), up_since: now()}

      not both? ->
        %{cool(state) | live: Incarnations.freeze(state.live, now()), up_since: nil}

      true ->
        state
    end
  end

  ## Effects

  defp perform(state, effects) do
    Enum.reduce(effects, state, fn
      {:count, kind}, state ->
        Metrics.add(kind, 1)
        state

      {how, id, epoch}, state ->
        for index <- indices(state), do: Shard.incarnation(index, how, id, epoch)
        if how != :show, do: Repairs.forget(id, epoch)
        Metrics.gauge(:shields, :liveness, length(Incarnations.in_force(state.live)))
        Brain.Log.info("Shield #{how}", shield: id, epoch: epoch)
        if how == :delete, do: forget(state, {id, epoch}), else: state
    end)
  end

  defp forget(state, key) do
    {id, epoch} = key
    Roots.forget(id, epoch)

    %{
      state
      | told: Map.delete(state.told, key),
        streaks: Map.delete(state.streaks, key),
        digests: Map.delete(state.digests, key),
        first_asked: Map.delete(state.first_asked, key),
        compared: MapSet.delete(state.compared, key)
    }
  end

  ## Roots and digests

  # A root is compared once every shard has read as far as the beat that told it.
  defp compare_roots(state, now) do
    Enum.reduce(state.told, state, fn {{id, epoch} = key, {uptime, root, quiet_ms, at}}, state ->
      case Roots.own(id, epoch, uptime, state.config.shards) do
        {:ok, own} ->
          state = %{state | told: Map.delete(state.told, key)}
          streak = Map.get(state.streaks, key, 0)

          case Roots.judge(own == root, quiet_ms, streak, state.warm?) do
            {:fine, streak} -> state |> compared_now(key) |> streak(key, streak)
            {:wait, streak} -> streak(state, key, streak)
            {:ask, streak} -> state |> ask(key, now) |> streak(key, streak)
          end

        :not_yet when now - at > 5_000 ->
          %{state | told: Map.delete(state.told, key)}

        :not_yet ->
          state
      end
    end)
  end

  defp streak(state, key, streak), do: %{state | streaks: Map.put(state.streaks, key, streak)}

  defp ask(state, {id, epoch} = key, now) do
    Link.command({:ask, id, epoch})
    %{state | first_asked: Map.put_new(state.first_asked, key, now)}
  end

  defp compare_digests(state, {id, epoch} = key, lists) do
    if Incarnations.in_force?(state.live, id, epoch) do
      ref = make_ref()
      shards = state.config.shards
      parts = lists |> Enum.concat() |> Enum.group_by(&:erlang.phash2(elem(&1, 0), shards))
      for i <- indices(state), do: Shard.digests(i, ref, id, epoch, Map.get(parts, i, []))
      left = MapSet.new(indices(state))
      waiting = Map.reject(state.comparing, fn {_, c} -> c.incarnation == key end)
      comparing = Map.put(waiting, ref, %{incarnation: key, left: left, pending: 0})
      %{state | comparing: comparing}
    else
      state
    end
  end

  defp compared_now(state, key) do
    %{
      state
      | compared: MapSet.put(state.compared, key),
        first_asked: Map.delete(state.first_asked, key)
    }
  end

  ## Warmth

  defp cool(state) do
    state = %{state | compared: MapSet.new(), first_asked: %{}, settled_at: nil}

    if state.up_since,
      do: set_warm(%{state | up_since: now()}, false),
      else: set_warm(state, false)
  end

  defp set_warm(%{warm?: warm?} = state, warm?), do: state

  defp set_warm(state, warm?) do
    Link.command({:serve, warm?})
    Metrics.gauge(:warm, :liveness, if(warm?, do: 1, else: 0))
    Brain.Log.info(if(warm?, do: "Warm", else: "Not warm"), [])
    emitters(%{state | warm?: warm?})
  end

  defp warm_up(%{warm?: true} = state, _), do: state
  defp warm_up(%{leaving?: true} = state, _), do: state
  defp warm_up(%{up_since: nil} = state, _), do: state

  defp warm_up(state, now) do
    cond do
      now - state.up_since < listen_ms(state) or uncompared(state, now) != [] ->
        %{state | settled_at: nil}

      state.settled_at == nil ->
        %{state | settled_at: now}

      # A moment later, for a wish can be under way from a shard.
      now - state.settled_at >= 2 * @tick_ms and Repairs.settled?(state.settled_at + @tick_ms) ->
        set_warm(state, true)

      true ->
        state
    end
  end

  defp uncompared(state, now) do
    for {id, epoch, true} <- Incarnations.in_force(state.live),
        not MapSet.member?(state.compared, {id, epoch}),
        now - Map.get(state.first_asked, {id, epoch}, now) < @patience_ms,
        do: id
  end

  defp why_cold(state) do
    cond do
      not state.up.control ->
        "no connection to CONTROL"

      not state.up.brain ->
        "no connection to BRAIN"

      now() - (state.up_since || now()) < listen_ms(state) ->
        "listening for Shields"

      uncompared(state, now()) != [] ->
        "digests of #{length(uncompared(state, now()))} Shields to compare"

      true ->
        "fetching snapshots"
    end
  end

  ## Emitters

  defp emitters(state) do
    own = if state.warm?, do: [state.config.id], else: []
    live = Enum.sort(own ++ Peers.warm(state.peers)) |> Enum.uniq()

    if {live, state.warm?} == state.emitters do
      state
    else
      for i <- indices(state), do: Shard.emitters(i, live, state.warm?)
      %{state | emitters: {live, state.warm?}}
    end
  end

  defp send_beat(state, goodbye?) do
    Link.command(
      {:beat,
       %{
         warm: state.warm?,
         uptime_ms: now() - state.started,
         members: Metrics.total(:members),
         tenants: Metrics.total(:tenants),
         shields: length(Incarnations.in_force(state.live)),
         share: Metrics.total(:share),
         goodbye: goodbye?
       }}
    )
  end

  # No manifest has this key: tests tell their beats at once.
  defp listen_ms(state), do: Map.get(state.config, :listen_ms, @listen_ms)

  defp indices(state), do: 0..(state.config.shards - 1)
  defp now, do: System.monotonic_time(:millisecond)
end
