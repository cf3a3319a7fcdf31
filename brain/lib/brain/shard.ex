defmodule Brain.Shard do
  @moduledoc """
  Owns the presence of the tenants that hash to it: a roster, its rounds, and the queries that wait.

  The rules are in `Brain.Roster`, `Brain.Rounds`, `Brain.Traces` and `Brain.Shard.Doubts`; this
  process decodes, applies, counts, and sends.
  """
  use GenServer

  alias Brain.{Link, Liveness, Metrics, Repairs, Roots, Roster, Rounds, Traces}
  alias Brain.Link.{Credit, Dispatch, Terms}
  alias Brain.Shard.Doubts

  # A query that waits for the asker's own change waits this long, and no more than these wait.
  @park_ms 250
  @most_parked 1_000
  @prune_every 100
  # Each change after a gap is a gap, and may come thousands of times a second.
  @want_again_ms 200

  defstruct [
    :config,
    :index,
    :roster,
    :rounds,
    :traces,
    warm?: false,
    doubts: Doubts.new(),
    parked: %{},
    parked_count: 0,
    wanted: %{},
    ticks: 0
  ]

  ## Client

  @spec start_link({Brain.Config.t(), non_neg_integer}) :: GenServer.on_start()
  def start_link({config, index}) do
    GenServer.start_link(__MODULE__, {config, index}, name: name(index))
  end

  @spec child_spec({Brain.Config.t(), non_neg_integer}) :: Supervisor.child_spec()
  def child_spec({_, index} = arg) do
    %{id: {__MODULE__, index}, start: {__MODULE__, :start_link, [arg]}}
  end

  @doc "The registered name of a shard. Their number is bounded by `Brain.Config`."
  @spec name(non_neg_integer) :: atom
  def name(index), do: :"brain_shard_#{index}"

  @doc "The shard of a tenant."
  @spec of(Roster.account(), pos_integer) :: non_neg_integer
  def of(account, shards), do: Dispatch.shard(account, shards)

  @doc "What became of an incarnation; `:adopt` is one that was hidden before the shard began."
  @spec incarnation(non_neg_integer, :show | :adopt | :hide | :delete, binary, non_neg_integer) ::
          :ok
  def incarnation(index, how, shield, epoch) do
    GenServer.cast(name(index), {:incarnation, how, shield, epoch})
  end

  @doc "The live, warm Brains, and whether this one is warm."
  @spec emitters(non_neg_integer, [binary], boolean) :: :ok
  def emitters(index, live, warm?), do: GenServer.cast(name(index), {:emitters, live, warm?})

  @doc "Compare all digests of an incarnation; the answer goes to `Brain.Liveness`."
  @spec digests(non_neg_integer, reference, binary, non_neg_integer, list) :: :ok
  def digests(index, ref, shield, epoch, list) do
    GenServer.cast(name(index), {:digests, ref, shield, epoch, list})
  end

  @doc "Begin a snapshot."
  @spec fetch(non_neg_integer, Repairs.Plan.key(), pos_integer, :forward | :back) :: :ok
  def fetch(index, key, request, direction) do
    GenServer.cast(name(index), {:fetch, key, request, direction})
  end

  @doc "Give a snapshot up."
  @spec abort(non_neg_integer, Repairs.Plan.key()) :: :ok
  def abort(index, key), do: GenServer.cast(name(index), {:abort, key})

  @doc "Give all snapshots up."
  @spec abort_all(non_neg_integer) :: :ok
  def abort_all(index), do: GenServer.cast(name(index), :abort_all)

  ## Server

  @impl true
  def init({config, index}) do
    Process.send_after(self(), :tick, config.tick_ms)
    rounds = Rounds.new(config, config.id)
    traces = Traces.new(config.traces)
    state = %__MODULE__{config: config, index: index, roster: Roster.new(), rounds: rounds}
    {:ok, %{state | traces: traces}, {:continue, :up}}
  end

  @impl true
  def handle_continue(:up, state) do
    Liveness.shard_up(state.index)
    {:noreply, state}
  end

  @impl true
  def handle_cast({:incarnation, how, shield, epoch}, state) do
    {:noreply, follow(state, how, shield, epoch)}
  end

  def handle_cast({:emitters, live, warm?}, state) do
    rounds = Rounds.emitters(state.rounds, state.roster, live, now())
    {:noreply, %{state | rounds: rounds, warm?: warm?}}
  end

  def handle_cast({:digests, ref, shield, epoch, list}, state) do
    # A Brain that is not warm has no answers to protect: what it lacks it fetches at once.
    how = if state.warm?, do: :digests, else: :cold
    {state, pending} = compare(state, shield, epoch, list, how)
    state = unlisted(state, shield, epoch, list)
    Liveness.compared(ref, state.index, pending)
    {:noreply, state}
  end

  def handle_cast({:fetch, {account, shield, epoch} = key, request, direction}, state) do
    case Roster.begin_snapshot(state.roster, shield, epoch, account, request, direction) do
      {:ok, roster} ->
        Link.command({:sync, account, shield, epoch, request})
        {:noreply, %{state | roster: roster}}

      :unknown ->
        Repairs.report(key, request, :done)
        {:noreply, state}
    end
  end

  def handle_cast({:abort, {account, shield, epoch}}, state) do
    {:noreply, %{state | roster: Roster.abort_snapshot(state.roster, shield, epoch, account)}}
  end

  def handle_cast(:abort_all, state) do
    {:noreply, %{state | roster: Roster.abort_snapshots(state.roster)}}
  end

  @impl true
  def handle_info({:part, ref, link, events}, state) do
    state = Enum.reduce(events, state, &event/2)
    Link.done(link, ref, state.index)
    {:noreply, state}
  end

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, state.config.tick_ms)
    {:noreply, state |> lagging() |> unpark_late() |> emit() |> export() |> measure()}
  end

  ## Events

  defp event({:changes, account, shield, epoch, first, count, traces, blob}, state) do
    began = began(traces)

    case Terms.changes(blob, count) do
      {:ok, changes} ->
        state.roster
        |> Roster.changes(shield, epoch, account, first, changes)
        |> changed(state, {account, shield, epoch}, count, {traces, began})

      :error ->
        changed(:malformed, state, {account, shield, epoch}, count, {[], began})
    end
  end

  defp event({:active, account, shield, epoch, traces, blob}, state) do
    began = began(traces)

    with {:ok, marks} <- Terms.marks(blob),
         :ok <- Roster.active(state.roster, shield, epoch, account, marks) do
      marked(state, account, shield, length(marks), {traces, began})
    else
      :error -> counted(state, :malformed)
      :unknown -> counted(state, :forged)
    end
  end

  defp event({:page, account, shield, epoch, seq, request, number, last?, blob}, state) do
    key = {account, shield, epoch}

    case Terms.entries(blob) do
      {:ok, entries} ->
        state.roster
        |> Roster.page(shield, epoch, account, request, number, seq, last?, entries)
        |> paged(state, key, request)

      :error ->
        Repairs.report(key, request, :failed)
        state = %{state | roster: Roster.abort_snapshot(state.roster, shield, epoch, account)}
        counted(state, :malformed)
    end
  end

  # Only warm Brains take part in the queue group; what comes around the change is asked again.
  defp event({:query, _, _, _, _, _, _, _}, %{warm?: false} = state), do: counted(state, :dropped)

  defp event({:query, account, _, _, _, _, _, _} = query, state) do
    if answerable?(state, query) or state.parked_count >= @most_parked do
      answer(state, query)
    else
      Metrics.add(:parked, 1)
      waiting = [{now() + @park_ms, query} | Map.get(state.parked, account, [])]
      parked = Map.put(state.parked, account, waiting)
      %{state | parked: parked, parked_count: state.parked_count + 1}
    end
  end

  # Where the beat stands in the stream is where its root is compared.
  defp event({:beat, shield, epoch, uptime, recent}, state) do
    {state, _} = compare(state, shield, epoch, recent, :beat)

    # An incarnation that is not in force leaves no row: forged ones would never be swept.
    if Roster.status(state.roster, shield, epoch) != :unknown do
      share = Roster.root(state.roster, shield, epoch)
      Roots.put(shield, epoch, state.index, uptime, share)
    end

    state
  end

  defp event({:dirty, list}, state) do
    for {account, shield} <- list, {^shield, epoch, _} <- Roster.incarnations(state.roster) do
      Repairs.want({account, shield, epoch}, :dirty)
    end

    state
  end

  defp changed(outcome, state, {account, _, _} = key, count, traced) do
    case outcome do
      {:ok, roster, facts} ->
        Metrics.add(:changes, count)
        rounds = Rounds.note(state.rounds, account, facts, now())

        # Traces first: a query that waited for this change has its room told at once.
        %{state | roster: roster, rounds: rounds}
        |> tracked(key, count, traced)
        |> unpark(account)

      :duplicate ->
        counted(state, :duplicates)

      :unknown ->
        counted(state, :forged)

      {:buffered, roster} ->
        %{state | roster: roster}

      {:overflow, roster} ->
        %{state | roster: roster} |> want(key, :overflow) |> counted(:dropped)

      :gap ->
        state |> want(key, :gap) |> counted(:gaps)

      :malformed ->
        state |> want(key, :malformed) |> counted(:malformed)
    end
  end

  defp paged(outcome, state, {account, _, _} = key, request) do
    case outcome do
      {tag, roster, facts} when tag in [:more, :done, :gap] ->
        Repairs.report(key, request, if(tag == :more, do: :progress, else: :done))
        if tag != :more, do: Metrics.add(:syncs_done, 1)
        rounds = Rounds.note(state.rounds, account, facts, now())
        state = %{state | roster: roster, rounds: rounds}
        # Asked for since the last one began; this one's end makes it a new wish.
        state = %{state | wanted: Map.delete(state.wanted, key)}
        state = if tag == :gap, do: want(state, key, :gap), else: state
        unpark(state, account)

      {:broken, roster} ->
        Repairs.report(key, request, :failed)
        %{state | roster: roster}

      :unexpected ->
        counted(state, :duplicates)

      :unknown ->
        counted(state, :forged)
    end
  end

  defp want(state, key, reason) do
    now = now()

    case state.wanted do
      %{^key => at} when now - at < @want_again_ms ->
        state

      _ ->
        Repairs.want(key, reason)
        %{state | wanted: Map.put(state.wanted, key, now)}
    end
  end

  defp counted(state, kind) do
    Metrics.add(kind, 1)
    state
  end

  ## Incarnations

  defp follow(state, :adopt, shield, epoch) do
    state |> follow(:show, shield, epoch) |> follow(:hide, shield, epoch)
  end

  defp follow(state, how, shield, epoch) do
    {roster, facts, accounts} = apply(Roster, how, [state.roster, shield, epoch])

    rounds =
      Enum.reduce(facts, state.rounds, fn {account, facts}, rounds ->
        Rounds.note(rounds, account, facts, now())
      end)

    rounds =
      Enum.reduce(accounts, rounds, fn account, rounds ->
        if how == :show,
          do: Rounds.back(rounds, account, epoch),
          else: Rounds.gone(rounds, account, epoch, now())
      end)

    doubts = if how == :show, do: state.doubts, else: Doubts.forget(state.doubts, shield, epoch)
    %{state | roster: roster, rounds: rounds, doubts: doubts}
  end

  ## Comparing versions

  defp compare(state, shield, epoch, list, how) do
    if Roster.status(state.roster, shield, epoch) == :unknown do
      {state, 0}
    else
      Enum.reduce(list, {state, 0}, fn {account, seq, count, digest}, {state, pending} ->
        key = {account, shield, epoch}

        if Roster.fetching?(state.roster, shield, epoch, account) do
          {state, pending}
        else
          ours = Roster.version(state.roster, shield, epoch, account)

          {doubts, verdict} =
            Doubts.compare(state.doubts, key, ours, {seq, count, digest}, how, now())

          if verdict == :digest, do: Metrics.add(:digest_mismatches, 1)
          if verdict in [:digest, :ahead, :cold], do: Repairs.want(key, verdict)
          {%{state | doubts: doubts}, pending + if(verdict == :wait, do: 1, else: 0)}
        end
      end)
    end
  end

  defp unlisted(state, shield, epoch, list) do
    listed = MapSet.new(list, &elem(&1, 0))

    held =
      for {account, seq, _, _} <- Roster.held(state.roster, shield, epoch),
          not MapSet.member?(listed, account),
          do: {account, seq}

    {doubts, dropped} = Doubts.unlisted(state.doubts, shield, epoch, held, now())

    Enum.reduce(dropped, %{state | doubts: doubts}, fn account, state ->
      Metrics.add(:tenants_dropped, 1)
      {roster, facts} = Roster.drop(state.roster, shield, epoch, account)
      rounds = Rounds.note(state.rounds, account, facts, now())
      %{state | roster: roster, rounds: Rounds.gone(rounds, account, epoch, now())}
    end)
  end

  defp lagging(state) do
    {doubts, due} = Doubts.due(state.doubts, now())

    for {{account, shield, epoch} = key, told} <- due do
      {seq, _, _} = Roster.version(state.roster, shield, epoch, account)
      if seq < told, do: Repairs.want(key, :lag)
    end

    %{state | doubts: doubts}
  end

  ## Queries

  defp answerable?(state, {:query, account, shield, epoch, _, _, _, after_seq}) do
    {seq, _, _} = Roster.version(state.roster, shield, epoch, account)
    seq >= after_seq and not Roster.half_applied?(state.roster, account)
  end

  defp answer(state, {:query, account, shield, _, id, room, count_only?, _}) do
    state = if Credit.left() > 0, do: tell_early(state, account, room), else: state
    %{roster: roster, config: config} = state
    {count, _, digest, _} = totals = Roster.totals(roster, account, room)
    truncated? = Rounds.truncated?(config, totals)

    members =
      if truncated? or count_only?,
        do: [],
        else: Roster.members(roster, account, room, config.sessions_listed)

    coverage = Roster.coverage(roster, account)
    command = {:answer, account, shield, id, room, digest, coverage, count, truncated?, members}

    # Without credit the asker asks again: an answer kept would only grow old.
    if Credit.left() > 0 do
      Link.command(command)
      counted(state, :answers)
    else
      counted(state, :dropped)
    end
  end

  defp tell_early(state, account, room) do
    {rounds, commands} = Rounds.tell_early(state.rounds, state.roster, account, room, now())
    told(%{state | rounds: rounds}, commands)
  end

  defp unpark(%{parked: none} = state, _) when none == %{}, do: state

  defp unpark(state, account) do
    case state.parked do
      %{^account => waiting} ->
        {ready, waiting} =
          Enum.split_with(waiting, fn {_, query} -> answerable?(state, query) end)

        release(state, account, ready, waiting)

      _ ->
        state
    end
  end

  defp unpark_late(%{parked: none} = state) when none == %{}, do: state

  defp unpark_late(state) do
    now = now()

    Enum.reduce(state.parked, state, fn {account, waiting}, state ->
      {late, waiting} = Enum.split_with(waiting, fn {deadline, _} -> deadline <= now end)
      release(state, account, late, waiting)
    end)
  end

  defp release(state, _, [], _), do: state

  defp release(state, account, ready, waiting) do
    state = Enum.reduce(ready, state, fn {_, query}, state -> answer(state, query) end)

    parked =
      if waiting == [],
        do: Map.delete(state.parked, account),
        else: Map.put(state.parked, account, waiting)

    %{state | parked: parked, parked_count: state.parked_count - length(ready)}
  end

  ## Rounds

  defp emit(state) do
    # The credit is shared: no shard may take all of it for its own.
    credit = div(Credit.left(), state.config.shards)
    {rounds, commands} = Rounds.tick(state.rounds, state.roster, now(), credit)
    told(%{state | rounds: rounds}, commands)
  end

  defp told(state, []), do: state

  defp told(state, commands) do
    {traces, commands} = Traces.tell(state.traces, commands, os_now())
    Link.commands(commands)
    Metrics.add(:events, length(commands))
    %{state | traces: traces}
  end

  ## Traces

  # What is not traced does not even look at the clock.
  defp began([]), do: nil
  defp began(_), do: os_now()

  defp tracked(state, _, _, {[], _}), do: state

  defp tracked(state, {account, shield, _}, count, {traces, began}) do
    batch = %{account: account, shield: shield, count: count, began: began}
    waits? = &Rounds.dirty?(state.rounds, account, &1)
    emitter? = Rounds.emits?(state.rounds, account)

    state.traces
    |> Traces.track(batch, traces, ids(traces), emitter?, waits?, os_now())
    |> taken(state, length(traces))
  end

  defp marked(state, _, _, _, {[], _}), do: state

  defp marked(state, account, shield, count, {traces, began}) do
    batch = %{account: account, shield: shield, count: count, began: began}

    state.traces
    |> Traces.mark(batch, traces, ids(traces), os_now())
    |> taken(state, length(traces))
  end

  defp taken({traces, dropped}, state, count) do
    Metrics.add(:traces, count - dropped)
    Metrics.add(:traces_dropped, dropped)
    %{state | traces: traces}
  end

  defp ids(traces), do: Enum.map(traces, fn _ -> span_id() end)

  defp span_id do
    case :crypto.strong_rand_bytes(8) do
      <<0::64>> -> span_id()
      id -> id
    end
  end

  defp export(state) do
    waits? = fn account, room -> Rounds.dirty?(state.rounds, account, room) end
    {spans, traces} = state.traces |> Traces.settle(waits?, os_now()) |> Traces.take()

    if spans != [] and not Link.spans(spans),
      do: Metrics.add(:traces_dropped, length(spans))

    %{state | traces: traces}
  end

  defp os_now, do: System.os_time(:nanosecond)

  ## Measuring

  defp measure(state) do
    stats = Roster.stats(state.roster)
    for {name, value} <- stats, do: Metrics.gauge(name, state.index, value)
    Metrics.gauge(:waiting, state.index, Doubts.size(state.doubts))
    {:message_queue_len, waiting} = Process.info(self(), :message_queue_len)
    Metrics.gauge(:mailbox_max, state.index, waiting)

    # These look at every tenant.
    if rem(state.ticks, 10) == 0,
      do: Metrics.gauge(:share, state.index, Rounds.share(state.rounds))

    rounds =
      if rem(state.ticks, @prune_every) == 0,
        do: Rounds.prune(state.rounds, state.roster),
        else: state.rounds

    now = now()
    wanted = Map.filter(state.wanted, fn {_, at} -> now - at < @want_again_ms end)
    %{state | rounds: rounds, wanted: wanted, ticks: state.ticks + 1}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
