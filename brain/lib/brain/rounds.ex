defmodule Brain.Rounds do
  @moduledoc """
  What the watchers of a shard's tenants must still be told.

  Facts of the roster become *dirt*: for each room its digest when it was last clean, and for each
  user of it whether it was present then. Each tick the dirt of the tenants that this Brain emits
  for becomes events; that of others is dropped, since their emitter has its own. What no credit is
  left for stays dirt, and dirt is bounded: a room with too many users in it forgets their names,
  a tenant with too many rooms in it is told by digests alone.

  Pure: time and credit are arguments, events are returned. Their traces are `Brain.Traces`'.
  """

  alias Brain.Roster

  # Beyond it the tenant's dirt is dropped and its watchers get digests at once.
  @most_rooms 20_000
  # One message to the link; a larger round is several, each with the coverage.
  @chunk_bytes 128 * 1024
  @digests_a_range 500
  # Longer than any event can be under way.
  @gone_ms 60_000
  # Looking through all tenants for those whose digests are due is done this often.
  @due_check_ms 1_000

  @type before :: %{Roster.user() => boolean} | :many
  @type tenant :: %{
          rooms: %{Roster.room() => {Roster.digest(), before}},
          counted: %{Roster.room() => integer},
          gone: %{Roster.epoch() => integer},
          news?: boolean
        }
  @type config :: %{
          :count_tick_ms => pos_integer,
          :full_limit => pos_integer,
          :state_max_bytes => pos_integer,
          :sessions_listed => pos_integer,
          :digest_ms => pos_integer,
          optional(atom) => term
        }
  @type t :: %__MODULE__{
          config: config,
          me: binary,
          live: [binary],
          mine: %{Roster.account() => integer | :not_mine},
          tenants: %{Roster.account() => tenant},
          sweeps: [{Roster.account(), Roster.room()}],
          told_early: %{{Roster.account(), Roster.room()} => true},
          due_check: integer
        }

  @type command ::
          {:events, Roster.account(), [{Roster.epoch(), Roster.seq()}], [Roster.epoch()], list,
           traces :: []}
          | {:digests, Roster.account(), [{Roster.epoch(), Roster.seq()}], Roster.room(),
             Roster.room(), list}

  @enforce_keys [:config, :me]
  defstruct [
    :config,
    :me,
    live: [],
    mine: %{},
    tenants: %{},
    sweeps: [],
    told_early: %{},
    due_check: 0
  ]

  @spec new(config, binary) :: t
  def new(config, me), do: %__MODULE__{config: config, me: me}

  @doc "Which of the live, warm Brains emits for a tenant: the same answer everywhere."
  @spec emitter(Roster.account(), [binary]) :: binary | nil
  def emitter(_, []), do: nil
  def emitter(account, live), do: Enum.max_by(live, &{:erlang.phash2({account, &1}), &1})

  @doc "The live, warm Brains are these now. Whoever takes a tenant over sends its digests at once."
  @spec emitters(t, Roster.t(), [binary], integer) :: t
  def emitters(rounds, roster, live, now) do
    was = rounds.mine
    accounts = Enum.uniq(Map.keys(was) ++ Map.keys(rounds.tenants) ++ Roster.accounts(roster))

    mine =
      Map.new(accounts, fn account ->
        case {emitter(account, live) == rounds.me, was} do
          {true, %{^account => due}} when is_integer(due) -> {account, due}
          {true, _} -> {account, now}
          {false, _} -> {account, :not_mine}
        end
      end)

    tenants =
      for {account, tenant} <- rounds.tenants, tenant = keep(tenant, mine[account]), into: %{} do
        {account, tenant}
      end

    sweeps = Enum.filter(rounds.sweeps, fn {account, _} -> is_integer(mine[account]) end)
    %{rounds | live: live, mine: mine, tenants: tenants, sweeps: sweeps, due_check: now}
  end

  defp keep(tenant, due) when is_integer(due), do: tenant
  defp keep(%{gone: gone}, _) when gone == %{}, do: nil
  defp keep(tenant, _), do: %{clean() | gone: tenant.gone}

  @doc "Whether this Brain emits for a tenant."
  @spec emits?(t, Roster.account()) :: boolean
  def emits?(rounds, account) do
    case rounds.mine do
      %{^account => due} -> is_integer(due)
      _ -> emitter(account, rounds.live) == rounds.me
    end
  end

  @doc "Whether there is something to tell of a room."
  @spec dirty?(t, Roster.account(), Roster.room()) :: boolean
  def dirty?(rounds, account, room) do
    match?(%{^account => %{rooms: %{^room => _}}}, rounds.tenants)
  end

  @doc "How many tenants this Brain emits for."
  @spec share(t) :: non_neg_integer
  def share(rounds), do: Enum.count(rounds.mine, fn {_, due} -> is_integer(due) end)

  ## Dirt

  @doc "Keeps facts as dirt, if this Brain emits for the tenant."
  @spec note(t, Roster.account(), Roster.facts(), integer) :: t
  def note(rounds, _, [], _), do: rounds

  def note(rounds, account, facts, now) do
    rounds = known(rounds, account, now)

    if rounds.mine[account] == :not_mine do
      rounds
    else
      tenant = Map.get(rounds.tenants, account, clean())
      limit = rounds.config.full_limit
      rooms = Enum.reduce(facts, tenant.rooms, &dirty(&1, &2, limit))

      if map_size(rooms) > @most_rooms do
        tenants = Map.put(rounds.tenants, account, %{tenant | rooms: %{}})
        %{rounds | tenants: tenants, sweeps: sweep(rounds.sweeps, account)}
      else
        %{rounds | tenants: Map.put(rounds.tenants, account, %{tenant | rooms: rooms})}
      end
    end
  end

  defp dirty({room, digest, user, present?}, rooms, limit) do
    case rooms do
      %{^room => {_, :many}} ->
        rooms

      %{^room => {_, users}} when is_map_key(users, user) ->
        rooms

      %{^room => {before, users}} when map_size(users) >= limit ->
        %{rooms | room => {before, :many}}

      %{^room => {before, users}} ->
        %{rooms | room => {before, Map.put(users, user, present?)}}

      _ ->
        Map.put(rooms, room, {digest, %{user => present?}})
    end
  end

  # The first digests of a new tenant come spread over the period, for tenants come in crowds.
  defp known(rounds, account, _) when is_map_key(rounds.mine, account), do: rounds

  defp known(rounds, account, now) do
    due =
      if emitter(account, rounds.live) == rounds.me,
        do: now + :erlang.phash2(account, rounds.config.digest_ms),
        else: :not_mine

    %{rounds | mine: Map.put(rounds.mine, account, due)}
  end

  @doc "An incarnation is no longer seen in a tenant: views may not wait for it."
  @spec gone(t, Roster.account(), Roster.epoch(), integer) :: t
  def gone(rounds, account, epoch, now) do
    rounds = known(rounds, account, now)
    tenant = Map.get(rounds.tenants, account, clean())
    tenant = %{tenant | gone: Map.put(tenant.gone, epoch, now), news?: true}
    %{rounds | tenants: Map.put(rounds.tenants, account, tenant)}
  end

  @doc "An incarnation is seen again."
  @spec back(t, Roster.account(), Roster.epoch()) :: t
  def back(rounds, account, epoch) do
    case rounds.tenants do
      %{^account => tenant} ->
        tenant = %{tenant | gone: Map.delete(tenant.gone, epoch)}
        %{rounds | tenants: Map.put(rounds.tenants, account, tenant)}

      _ ->
        rounds
    end
  end

  defp clean, do: %{rooms: %{}, counted: %{}, gone: %{}, news?: false}

  ## Ticks

  @doc "What to send now, at most about `credit` bytes of it."
  @spec tick(t, Roster.t(), integer, integer) :: {t, [{pos_integer, command}]}
  def tick(rounds, roster, now, credit) do
    {tenants, {out, credit}} =
      Enum.reduce(rounds.tenants, {rounds.tenants, {[], credit}}, fn {account, tenant}, acc ->
        tick_tenant(rounds, roster, account, tenant, now, acc)
      end)

    rounds = due(%{rounds | tenants: tenants, told_early: %{}}, now)
    {rounds, out, _} = sweep_some(rounds, roster, out, credit)
    {rounds, Enum.reverse(out)}
  end

  @doc """
  What to tell of a room before a query of it is answered.

  An answer given between a change and its tick would be ahead of the chain of events: if the room
  changes once more before the tick, the next event would not follow on it, and in a busy room no
  answer ever would. Once a tick and room, so that a storm of queries is none of events.
  """
  @spec tell_early(t, Roster.t(), Roster.account(), Roster.room(), integer) ::
          {t, [{pos_integer, command}]}
  def tell_early(rounds, roster, account, room, now) do
    with %{^account => due} when is_integer(due) <- rounds.mine,
         false <- is_map_key(rounds.told_early, {account, room}),
         %{^account => %{rooms: %{^room => dirt}} = tenant} <- rounds.tenants,
         false <- truncated?(rounds.config, Roster.totals(roster, account, room)),
         false <- Roster.half_applied?(roster, account) do
      {event, counted} = event(rounds.config, roster, account, room, dirt, tenant.counted, now)
      tenant = %{tenant | rooms: Map.delete(tenant.rooms, room), counted: counted}
      told_early = Map.put(rounds.told_early, {account, room}, true)
      tenants = Map.put(rounds.tenants, account, tenant)
      events = if event, do: [event], else: []
      coverage = Roster.coverage(roster, account)
      commands = for e <- events, do: {:events, account, coverage, Map.keys(tenant.gone), [e], []}
      {out, _} = charge(commands, {[], 0})
      {%{rounds | tenants: tenants, told_early: told_early}, out}
    else
      _ -> {rounds, []}
    end
  end

  # Until a snapshot is whole its tenant is between two truths.
  defp tick_tenant(rounds, roster, account, tenant, now, {tenants, {out, credit}} = acc) do
    mine? = is_integer(rounds.mine[account])
    idle? = not mine? or (tenant.rooms == %{} and not tenant.news?)

    cond do
      # What only remembers who is gone is looked at now and then: it can be every tenant.
      idle? and now < rounds.due_check ->
        acc

      idle? ->
        {settle(tenants, account, %{tenant | rooms: %{}, news?: false}, now), {out, credit}}

      credit <= 0 or Roster.half_applied?(roster, account) ->
        acc

      true ->
        {tenant, events, left} = events(rounds.config, roster, account, tenant, now, credit)
        coverage = Roster.coverage(roster, account)
        gone = Map.keys(tenant.gone)
        tenant = %{tenant | rooms: left, news?: false}

        commands =
          case chunks(events) do
            [] when gone == [] -> []
            [] -> [{:events, account, coverage, gone, [], []}]
            chunks -> for chunk <- chunks, do: {:events, account, coverage, gone, chunk, []}
          end

        {settle(tenants, account, tenant, now), charge(commands, {out, credit})}
    end
  end

  defp settle(tenants, account, tenant, now) do
    gone = Map.filter(tenant.gone, fn {_, at} -> now - at < @gone_ms end)
    tenant = %{tenant | gone: gone}
    if tenant == clean(), do: Map.delete(tenants, account), else: %{tenants | account => tenant}
  end

  defp charge(commands, acc) do
    Enum.reduce(commands, acc, fn command, {out, credit} ->
      cost = :erlang.external_size(command)
      {[{cost, command} | out], credit - cost}
    end)
  end

  defp events(config, roster, account, tenant, now, credit) do
    {events, left, counted, _} =
      Enum.reduce(tenant.rooms, {[], %{}, tenant.counted, credit}, fn
        {room, dirt}, {events, left, counted, credit} when credit <= 0 ->
          {events, Map.put(left, room, dirt), counted, credit}

        {room, dirt}, {events, left, counted, credit} ->
          case event(config, roster, account, room, dirt, counted, now) do
            {:later, counted} ->
              {events, Map.put(left, room, dirt), counted, credit}

            {nil, counted} ->
              {events, left, counted, credit}

            {event, counted} ->
              cost = :erlang.external_size(event)
              {[{cost, event} | events], left, counted, credit - cost}
          end
      end)

    {%{tenant | counted: counted}, events, left}
  end

  defp event(config, roster, account, room, {before, users}, counted, now) do
    {count, _, digest, _} = totals = Roster.totals(roster, account, room)
    last = Map.get(counted, room)

    cond do
      digest == before and (last == nil or truncated?(config, totals)) ->
        {nil, counted}

      truncated?(config, totals) and last != nil and now - last < config.count_tick_ms ->
        {:later, counted}

      truncated?(config, totals) ->
        {{room, before, digest, count, true, [], []}, Map.put(counted, room, now)}

      # Under the limit again: whoever watches asks for the names.
      last != nil ->
        {{room, before, digest, count, false, [], []}, Map.delete(counted, room)}

      # Too many changes to name: a broken chain makes the watchers ask.
      users == :many ->
        {{room, digest, digest, count, false, [], []}, counted}

      true ->
        {members, left} = named(config, roster, account, room, users)
        {{room, before, digest, count, false, members, left}, counted}
    end
  end

  defp named(config, roster, account, room, users) do
    Enum.reduce(users, {[], []}, fn {user, was?}, {members, left} ->
      case Roster.member(roster, account, room, user, config.sessions_listed) do
        nil when was? -> {members, [user | left]}
        nil -> {members, left}
        member -> {[member | members], left}
      end
    end)
  end

  @doc "Whether a room is told by its count only."
  @spec truncated?(config, Roster.totals()) :: boolean
  def truncated?(config, {users, _, _, bytes}) do
    users > config.full_limit or bytes > config.state_max_bytes
  end

  defp chunks(events) do
    events
    |> Enum.chunk_while(
      {[], 0},
      fn {cost, event}, {chunk, size} ->
        if chunk != [] and size + cost > @chunk_bytes,
          do: {:cont, chunk, {[event], cost}},
          else: {:cont, {[event | chunk], size + cost}}
      end,
      fn
        {[], _} -> {:cont, nil}
        {chunk, _} -> {:cont, chunk, nil}
      end
    )
  end

  ## Digests

  defp due(rounds, now) when now < rounds.due_check, do: rounds

  defp due(rounds, now) do
    due = for {account, at} <- rounds.mine, is_integer(at), at <= now, do: account
    mine = Enum.reduce(due, rounds.mine, &Map.put(&2, &1, now + rounds.config.digest_ms))
    sweeps = Enum.reduce(due, rounds.sweeps, &sweep(&2, &1))
    %{rounds | mine: mine, sweeps: sweeps, due_check: now + @due_check_ms}
  end

  # One that is under way begins again: it was told of rooms as they were.
  defp sweep(sweeps, account) do
    [{account, ""} | List.keydelete(sweeps, account, 0)]
  end

  defp sweep_some(%{sweeps: []} = rounds, _, out, credit), do: {rounds, out, credit}
  defp sweep_some(rounds, _, out, credit) when credit <= 0, do: {rounds, out, credit}

  defp sweep_some(%{sweeps: [{account, _} = next | sweeps]} = rounds, roster, out, credit) do
    if Roster.half_applied?(roster, account),
      do: {%{rounds | sweeps: sweeps ++ [next]}, out, credit},
      else: sweep_one(rounds, roster, out, credit)
  end

  defp sweep_one(%{sweeps: [{account, from} | sweeps]} = rounds, roster, out, credit) do
    {digests, to} = Roster.digests(roster, account, from, @digests_a_range)
    command = {:digests, account, Roster.coverage(roster, account), from, to, digests}
    {out, credit} = charge([command], {out, credit})

    rounds =
      if to == "",
        do: forget(%{rounds | sweeps: sweeps}, roster, account),
        else: %{rounds | sweeps: [{account, to} | sweeps]}

    sweep_some(rounds, roster, out, credit)
  end

  # The last digests of a tenant that nobody is in any more have told so.
  defp forget(rounds, roster, account) do
    if is_map_key(roster.tenants, account) or is_map_key(rounds.tenants, account),
      do: rounds,
      else: %{rounds | mine: Map.delete(rounds.mine, account)}
  end

  @doc "Forgets tenants of others that are in no roster any more."
  @spec prune(t, Roster.t()) :: t
  def prune(rounds, roster) do
    mine =
      Map.reject(rounds.mine, fn {account, due} ->
        due == :not_mine and not is_map_key(roster.tenants, account) and
          not is_map_key(rounds.tenants, account)
      end)

    %{rounds | mine: mine}
  end
end
